"""How checkpoints are loaded and run without their training script: LLaVA-1.5's, and transformers' own.

Every other family is measured inside its own training script (README.md of the probe). A family of yours is a
`ProbeHost` in a file of its own.
"""

from . import llava_host as _llava  # noqa: F401  (importing a host's module registers it)
from . import transformers_host as _transformers  # noqa: F401
from .probe_host import HOSTS, LoadOptions, ProbeHost, load_checkpoint, register_host

__all__ = ["HOSTS", "LoadOptions", "ProbeHost", "load_checkpoint", "register_host"]
