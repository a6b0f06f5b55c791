"""The conformance kit on LLaVA-1.5's own classes, and on models that are broken in one way each."""

from __future__ import annotations

import pytest
from tiny_llava import build, make_batch

from llava_vista.testing import check_adapter

pytestmark = pytest.mark.environments("llava")


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_llava(tower_path, kind: str) -> None:
    def load_tower_too() -> object:
        return build(kind, tower_path)

    # from_pretrained leaves LLaVA's vision tower to its own loader
    outcomes = check_adapter(load_tower_too, lambda: make_batch((1, 0, 2)), skip=["save_and_load"])
    assert all(outcome.result == "ok" or outcome.check == "save_and_load" for outcome in outcomes), outcomes
