"""The conformance kit, for authors of adapters: VISTA acts exactly on a model, and leaves it as it was.

conformance  runs the checks and reports them: ``check_adapter(build_model, build_batch)`` in a test of your own
checks       the checks, one function each; a new one is known by its decorator
case         one model and batch under test, and what a forward pass shows
"""

from __future__ import annotations

from .conformance import ConformanceError, Outcome, check_adapter

__all__ = ["ConformanceError", "Outcome", "check_adapter"]
