"""The conformance kit on transformers' own vision-language classes."""

from __future__ import annotations

import pytest
from models import FAMILIES

from llava_vista.testing import check_adapter


@pytest.mark.parametrize("name", FAMILIES)
def test_conformance(name: str) -> None:
    family = FAMILIES[name]
    outcomes = check_adapter(family.build, family.batch)
    skipped = [str(outcome) for outcome in outcomes if outcome.result == "skipped"]
    assert not skipped
