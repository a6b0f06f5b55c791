"""What can go wrong while patching."""

from __future__ import annotations

from ...errors import VistaError


class PatchError(VistaError, RuntimeError):
    """The repository is not known, cannot take the change, or may not be touched. Nothing was written."""
