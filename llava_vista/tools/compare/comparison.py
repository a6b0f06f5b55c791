"""Both arms read and compared: everything that a report says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ... import __version__
from ..kit.published_scores import published_source
from .run_directories import read_arm
from .task_comparison import ScoreComparison, compare_scores
from .training_comparison import ARMS, TrainingComparison, compare_trainings


@dataclass
class Comparison:
    """What was compared, and what was not. ``training`` is None when not both arms have trainings."""

    training: TrainingComparison | None
    scores: ScoreComparison
    problems: list[str]

    @property
    def is_comparable(self) -> bool:
        """Whether nothing recorded but VISTA differs between the trainings."""
        return self.training is None or not self.training.refusals

    @property
    def is_complete(self) -> bool:
        """Whether everything that was named could be compared, which is something, and only VISTA differs."""
        rows = [*self.scores.rows, *(self.training.rows if self.training is not None else ())]
        return bool(rows) and self.is_comparable and not self.problems and not self.not_compared

    @property
    def not_compared(self) -> list[str]:
        """What both arms have, or one of them, and could not be compared."""
        return [*(self.training.not_compared if self.training is not None else ()), *self.scores.not_compared]

    def headlines(self) -> list[str]:
        """Return what the report is about, whether it is a comparison at all, and the outcome."""
        parts = []
        if self.training is not None:
            counts = f"trainings ({len(self.training.baseline)} and {len(self.training.vista)} runs)"
            parts.append(counts if self.is_comparable else "trainings that are NOT comparable")
        if self.scores.rows:
            parts.append(f"{self.scores.count_tasks()} evaluated tasks")
        left = len(self.not_compared) + len(self.problems)
        if left:
            parts.append(f"{left} thing{'s' if left > 1 else ''} that could not be compared (named at the end)")
        about = f"Baseline against VISTA: {', '.join(parts) or 'nothing to compare'}."
        outcome = self.scores.outcome() if self.is_comparable else ""
        return [about, outcome] if outcome else [about]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the JSON report."""
        return {
            "llava_vista": __version__,
            "headlines": self.headlines(),
            "comparable": self.is_comparable,
            "complete": self.is_complete,
            "training": None if self.training is None else self.training.to_dict(),
            "evaluations": {
                name: [run.to_dict() for run in arm]
                for name, arm in zip(("baseline", "vista"), self.scores.arms, strict=True)
            },
            "scores": [row.to_dict() for row in self.scores.rows],
            "not_compared": self.not_compared,
            "problems": self.problems,
            "notes": self.scores.notes,
            "published_source": published_source(),
        }


def compare(baseline: Sequence[str], vista: Sequence[str]) -> Comparison:
    """Read and compare the directories of two arms.

    Raises:
        CompareError: one of them is not a directory.
        MissingExtraError: a test needs the extra ``compare``.
    """
    arms = [read_arm(name, folders) for name, folders in zip(ARMS, (baseline, vista), strict=True)]
    problems = [problem for arm in arms for problem in arm.problems]
    trained = [arm for arm in arms if arm.trainings]
    if len(trained) == 1:
        problems.append(f"there are trainings in the {trained[0].name} arm only, so they are not compared.")
    training = compare_trainings(arms[0].trainings, arms[1].trainings) if len(trained) == 2 else None
    return Comparison(training, compare_scores(arms[0].evaluations, arms[1].evaluations), problems)
