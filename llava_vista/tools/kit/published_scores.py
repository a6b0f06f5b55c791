"""The numbers that VISTA's authors released, by task of lmms-eval (``published_scores.json`` beside this file)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .evaluation_scores import LMMS_EVAL, ScoreKey
from .json_files import package_data

_RELEASE = package_data(__package__, "published_scores.json")
_TASKS: dict[tuple[str, str], dict[str, Any]] = {
    (task, metric): {
        "name": name,
        "scale": scale,
        "unit": unit,
        "scores": {
            model: dict(zip(_RELEASE["arms"], of, strict=True))
            for model, of in zip(_RELEASE["models"], numbers, strict=True)
        },
    }
    for task, metric, name, scale, unit, *numbers in _RELEASE["tasks"]
}


def published_task(key: ScoreKey) -> dict[str, Any] | None:
    """Return a task's entry, with ``unit`` and ``scale`` (from what lmms-eval reports to that unit), or None."""
    metric = key.metric.partition(" (")[0]  # without the filter's name
    return _TASKS.get((key.task, metric)) if key.harness == LMMS_EVAL else None


def published_model(names: Iterable[str]) -> str | None:
    """Return the released model that all of these are, by their names (paths of checkpoints), or None."""
    found = set()
    for name in names:
        letters = re.sub(r"[^a-z0-9]", "", name.lower())
        found.add(next((model for model, form in _RELEASE["models"].items() if re.search(form, letters)), None))
    return found.pop() if len(found) == 1 else None


def published_scores(key: ScoreKey, model: str | None) -> dict[str, Any] | None:
    """Return ``name``, ``model``, ``baseline``, ``l2``, ``cosine`` and ``note`` (may be None) of a task, or None.

    ``model`` is a `published_model`: the numbers of another one would say nothing about it.
    """
    task = published_task(key)
    if task is None or model is None:
        return None
    note = _RELEASE["notes"].get(task["name"])
    return {"name": task["name"], "model": model, **task["scores"][model], "note": note}


def published_tasks() -> list[str]:
    """Return lmms-eval's names of the tasks, in the tables' order."""
    return list(dict.fromkeys(task for task, _ in _TASKS))


def published_source() -> str:
    """Return where the numbers come from, for a footnote."""
    return f"{_RELEASE['source']}; evaluated with {_RELEASE['harness']}"
