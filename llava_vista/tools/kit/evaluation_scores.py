"""What an evaluation reports, whichever harness it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LMMS_EVAL = "lmms-eval"
LLAVA_SCRIPTS = "LLaVA's own scripts"
VLMEVALKIT = "VLMEvalKit"


class ScoreKey(NamedTuple):
    """One number of one task. Scores are compared only under the same key, so never across harnesses."""

    harness: str
    task: str
    metric: str


class Question(NamedTuple):
    """A logged question, with its raw entry by metric. A hash is "" where the file has none."""

    prompt: str  # the hash of what was asked
    target: str  # the hash of the document and the expected answer
    entries: Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """A reported number, the ``main`` one of its task or not.

    ``conditions`` must be equal in both arms for the numbers to be comparable. ``count`` and ``questions`` are None
    where they were not logged, ``higher_is_better`` where the harness does not say; ``unit`` is "" where it must be
    concluded from the values.
    """

    value: float
    higher_is_better: bool | None
    conditions: Mapping[str, str]
    count: int | None = None
    questions: Mapping[str, Question] | None = None  # by id
    main: bool = False
    unit: str = ""


@dataclass
class EvaluationRun:
    """One model evaluated by one harness; its training's seed where that is recorded; and what could not be read."""

    harness: str
    folder: Path
    model: str = ""
    seed: int | None = None
    date: str = ""
    scores: dict[ScoreKey, Score] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
