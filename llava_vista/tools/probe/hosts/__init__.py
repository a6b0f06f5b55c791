"""How the checkpoints of a model family are loaded and asked: one small file each, found through the registry."""

from . import forks as _forks  # noqa: F401  (importing a host's module registers it)
from . import moellava as _moellava  # noqa: F401
from . import native as _native  # noqa: F401
from . import tinyllava as _tinyllava  # noqa: F401
from . import vila as _vila  # noqa: F401
from .base import HOSTS, LoadOptions, ProbeHost, Subject, load_subject, register_host

__all__ = ["HOSTS", "LoadOptions", "ProbeHost", "Subject", "load_subject", "register_host"]
