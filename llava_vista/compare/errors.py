"""The comparison's own error."""

from __future__ import annotations

from ..errors import VistaError


class CompareError(VistaError, ValueError):
    """What was given to compare cannot be used at all. A single bad file is no error: it is named in the report."""
