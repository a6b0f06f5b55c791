"""llava-vista: VISTA (arXiv 2505.10917) in LLaVA-family training, with one flag and none of the host's code touched.

Importing this package imports nothing heavy; torch comes in with the first name that needs it.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> the module that defines it
_PUBLIC = {
    "VistaConfig": "config",
    "AttachError": "errors",
    "ConfigError": "errors",
    "LayoutError": "errors",
    "NonFiniteLossError": "errors",
    "RegistryError": "errors",
    "UnsupportedModelError": "errors",
    "VistaError": "errors",
    "SequenceLayout": "layout",
    "Handle": "attach.handle",
    "attach": "attach.handle",
    "Adapter": "adapters",
    "register_adapter": "adapters",
    "AlignmentHead": "objective",
    "TextBag": "objective",
    "register_estimator": "objective",
    "register_weighting": "objective",
    "vista_loss": "objective",
    "install": "hooks",
    "uninstall": "hooks",
}

__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from .adapters import Adapter as Adapter
    from .adapters import register_adapter as register_adapter
    from .attach.handle import Handle as Handle
    from .attach.handle import attach as attach
    from .config import VistaConfig as VistaConfig
    from .errors import AttachError as AttachError
    from .errors import ConfigError as ConfigError
    from .errors import LayoutError as LayoutError
    from .errors import NonFiniteLossError as NonFiniteLossError
    from .errors import RegistryError as RegistryError
    from .errors import UnsupportedModelError as UnsupportedModelError
    from .errors import VistaError as VistaError
    from .hooks import install as install
    from .hooks import uninstall as uninstall
    from .layout import SequenceLayout as SequenceLayout
    from .objective import AlignmentHead as AlignmentHead
    from .objective import TextBag as TextBag
    from .objective import register_estimator as register_estimator
    from .objective import register_weighting as register_weighting
    from .objective import vista_loss as vista_loss


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(types.ModuleType):
    """Keep `llava_vista.attach` the function: importing the folder of that name would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "attach" and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
