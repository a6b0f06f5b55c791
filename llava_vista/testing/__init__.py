"""For authors of adapters: does VISTA act exactly on a model, and leave it as it was?

from llava_vista.testing import check_adapter

def test_my_model():
    check_adapter(build_model, build_batch)
"""

from __future__ import annotations

from .conformance import ConformanceError, Outcome, check_adapter

__all__ = ["ConformanceError", "Outcome", "check_adapter"]
