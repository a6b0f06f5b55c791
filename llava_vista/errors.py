"""Every error that llava-vista raises on purpose.

A message names what was found, what was expected, and the next thing to try.
"""

from __future__ import annotations


class VistaError(Exception):
    """Base of all errors raised by llava-vista."""


class ConfigError(VistaError, ValueError):
    """An option is unknown, out of range, or contradicts another."""


class RegistryError(VistaError, ValueError):
    """A name is unknown to a registry, or registered twice."""


class UnsupportedModelError(VistaError, TypeError):
    """No adapter, or more than one, recognises the model."""


class AttachError(VistaError, RuntimeError):
    """The model cannot be attached now, or the process set-up does not allow it."""


class LayoutError(VistaError, RuntimeError):
    """It is unclear which positions of the merged sequence are text, image or padding."""


class NonFiniteLossError(VistaError, ArithmeticError):
    """The VISTA loss became NaN or infinite."""


class CompareError(VistaError, ValueError):
    """What was given to compare cannot be used at all. A single bad file is no error: the report names it."""


class DemoError(VistaError, RuntimeError):
    """The demo cannot start, or a part of it failed."""


class ProbeError(VistaError, RuntimeError):
    """The data or the checkpoint cannot be probed as asked, or a model gave numbers that mean nothing."""


class ReproduceError(VistaError, RuntimeError):
    """Something is missing or not as published, or a stage failed. The message names all of it."""


class MissingExtraError(VistaError, ImportError):
    """An optional dependency is not installed. The message names the extra of llava-vista that brings it."""
