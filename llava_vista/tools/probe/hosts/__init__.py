"""How the checkpoints of a model family are loaded and run: a host per repository, found through the registry.

A fork of LLaVA is a data sheet in ``llava_forks.py``. Another family is a `ProbeHost` in a file of its own.
"""

from . import llava_forks as _llava_forks  # noqa: F401  (importing a host's module registers it)
from . import tinyllava_host as _tinyllava  # noqa: F401
from . import transformers_host as _transformers  # noqa: F401
from . import vila_host as _vila  # noqa: F401
from .probe_host import HOSTS, LoadOptions, ProbeHost, load_checkpoint, register_host

__all__ = ["HOSTS", "LoadOptions", "ProbeHost", "load_checkpoint", "register_host"]
