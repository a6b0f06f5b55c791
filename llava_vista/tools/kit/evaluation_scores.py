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


@dataclass
class Questions:
    """A task's logged questions in the order of the file. A hash is "" where the file has none.

    Attributes:
        prompts: hashes of what was asked.
        targets: hashes of the document and the expected answer.
        entries: each metric's raw entry per question.
        answered: how many have an answer that is not empty.
    """

    ids: list[str]
    prompts: list[str]
    targets: list[str]
    entries: Mapping[str, list[Any]]
    answered: int = 0


@dataclass(frozen=True)
class Score:
    """A reported number.

    Attributes:
        value: as the harness reports it.
        higher_is_better: None when the harness does not say.
        conditions: what must be equal in both arms for the numbers to be comparable, in words.
        count: how many questions it is computed from, where reported.
        questions: the questions, where they were logged.
        main: whether it is the task's headline metric.
        unit: of the value; "" where it must be concluded (a fraction, points).
    """

    value: float
    higher_is_better: bool | None
    conditions: Mapping[str, str]
    count: int | None = None
    questions: Questions | None = None
    main: bool = False
    unit: str = ""


@dataclass
class EvaluationRun:
    """One model evaluated by one harness; its training's seed where that is recorded; and what could not be read."""

    folder: Path
    model: str = ""
    seed: int | None = None
    date: str = ""
    scores: dict[ScoreKey, Score] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def has(self, harness: str) -> bool:
        """Return whether there are scores of this harness."""
        return any(key.harness == harness for key in self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Return what was evaluated, and when, as plain values."""
        return {"folder": str(self.folder), "model": self.model, "seed": self.seed, "date": self.date}
