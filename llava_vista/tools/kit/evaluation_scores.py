"""What an evaluation says, whichever harness it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LMMS_EVAL = "lmms-eval"
LLAVA_SCRIPTS = "LLaVA's own scripts"


class ScoreKey(NamedTuple):
    """One number of one task. Scores are compared only under the same key, so never across harnesses."""

    harness: str
    task: str
    metric: str


@dataclass(frozen=True)
class Samples:
    """A task's questions, in the order of the file: what was asked, what was expected, and each metric's raw entry."""

    ids: list[str]
    #: hash of the prompt, "" where the file has none
    prompts: list[str]
    #: hash of the document and the expected answer, "" where the file has none
    targets: list[str]
    entries: Mapping[str, list[Any]]


@dataclass(frozen=True)
class Score:
    """A reported number.

    Attributes:
        value: as the harness reports it.
        higher_is_better: None when the harness does not say.
        conditions: what must be equal on both sides for the numbers to be comparable, in words.
        questions: how many questions it is computed from, where reported.
        samples: the questions, where they were logged.
        main: the task's headline metric.
        percent: the value is on a scale of 0 to 100 already.
    """

    value: float
    higher_is_better: bool | None
    conditions: Mapping[str, str]
    questions: int | None = None
    samples: Samples | None = None
    main: bool = False
    percent: bool = False


@dataclass
class EvalRun:
    """One evaluated model of one harness."""

    folder: Path
    model: str
    scores: dict[ScoreKey, Score] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
