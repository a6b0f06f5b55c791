"""What can go wrong in the demo, said in a way that tells the user what to do next."""

from __future__ import annotations

from ..errors import VistaError


class DemoError(VistaError, RuntimeError):
    """The demo cannot start, or a part of it failed."""
