"""What differs between model families: one data sheet each. A file dropped in here is known. See README.md."""

import importlib
import pkgutil

from .base import ADAPTERS, MERGE_ARGUMENTS, Adapter, Found, all_adapters, find_adapter, register_adapter

__all__ = ["ADAPTERS", "MERGE_ARGUMENTS", "Adapter", "Found", "all_adapters", "find_adapter", "register_adapter"]

for _module in pkgutil.iter_modules(__path__):  # importing an adapter module registers it
    importlib.import_module(f"{__name__}.{_module.name}")
