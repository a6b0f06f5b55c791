"""The released numbers, as in the README of the release."""

from __future__ import annotations

import pytest

from llava_vista.tools.kit.evaluation_scores import LMMS_EVAL, ScoreKey
from llava_vista.tools.kit.published_scores import published_task, published_tasks

pytestmark = pytest.mark.environments("latest")


def test_published_numbers() -> None:
    task = published_task(ScoreKey(LMMS_EVAL, "docvqa_val", "anls"))
    assert task is not None and task["scores"]["LLaVA-1.5-7B"] == {"baseline": 21.49, "l2": 22.66, "cosine": 21.87}
    assert published_task(ScoreKey(LMMS_EVAL, "realworldqa", "exact_match (flexible-extract)")) is not None
    assert published_task(ScoreKey(LMMS_EVAL, "docvqa_val", "rouge")) is None
    assert published_task(ScoreKey("another harness", "docvqa_val", "anls")) is None
    assert len(published_tasks()) == 18 and published_tasks()[0] == "vqav2_val"
