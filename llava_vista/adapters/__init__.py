"""What differs between model families: one small file each, found through the registry."""

from . import llava as _llava  # noqa: F401  (importing an adapter module registers it)
from .base import ADAPTERS, Adapter, Found, all_adapters, find_adapter, register_adapter

__all__ = ["ADAPTERS", "Adapter", "Found", "all_adapters", "find_adapter", "register_adapter"]
