"""How the checkpoints of a model family are loaded and asked: one small file each, found through the registry."""

from . import llava as _llava  # noqa: F401  (importing a host's module registers it)
from . import native as _native  # noqa: F401
from .base import HOSTS, LoadOptions, ProbeHost, Subject, load_subject, register_host

__all__ = ["HOSTS", "LoadOptions", "ProbeHost", "Subject", "load_subject", "register_host"]
