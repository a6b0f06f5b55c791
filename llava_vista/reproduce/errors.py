"""What can go wrong while reproducing the paper."""

from __future__ import annotations

from ..errors import VistaError


class ReproduceError(VistaError, RuntimeError):
    """Something is missing or not as published, or a stage failed. The message names all of it."""
