"""What can go wrong in a probe, said in a way that tells the user what to do next."""

from __future__ import annotations

from ..errors import VistaError


class ProbeError(VistaError, RuntimeError):
    """The data or the checkpoint cannot be probed as asked, or a model gave numbers that mean nothing."""
