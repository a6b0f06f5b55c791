"""The numbers that VISTA's authors released, by task of lmms-eval (``published_scores.json`` beside this file)."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from .evaluation_scores import LMMS_EVAL, ScoreKey


@cache
def _released() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("published_scores.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def released_task(key: ScoreKey) -> dict[str, Any] | None:
    """The entry for a score, with ``scale`` (from what lmms-eval reports to the released unit) and ``unit``.

    None for other tasks, and for every other harness: the released numbers are lmms-eval's.
    """
    metric = key.metric.partition(" (")[0]  # without the filter's name
    for task in _released()["tasks"]:
        if key.harness == LMMS_EVAL and (task["task"], task["metric"]) == (key.task, metric):
            return dict(task)
    return None


def released_scores(key: ScoreKey, model: str) -> dict[str, Any] | None:
    """What was released for a task: ``name``, ``model``, ``baseline``, ``l2``, ``cosine``, and a ``note``, if any.

    ``model`` is the evaluated model's name; TinyLLaVA's numbers are taken where it says so, else LLaVA-1.5-7B's.
    """
    task = released_task(key)
    if task is None:
        return None
    name = "TinyLLaVA" if "tinyllava" in model.lower().replace("-", "") else "LLaVA-1.5-7B"
    return {"name": task["name"], "model": name, **task["scores"][name], "note": task.get("note")}


def published_tasks() -> list[str]:
    """lmms-eval's names of the tasks that were released, in the tables' order."""
    return list(dict.fromkeys(task["task"] for task in _released()["tasks"]))


def source() -> str:
    """Where the numbers come from, for a footnote."""
    return f"{_released()['source']}; evaluated with {_released()['harness']}"
