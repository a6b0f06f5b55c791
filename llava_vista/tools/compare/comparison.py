"""Both arms read and compared: everything that a report says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ... import __version__
from .arms import Arm, read_arm
from .curves import TrainingComparison, compare_trainings, describe_vista, vista_summary
from .published import source
from .tasks import ScoreComparison, compare_scores
from .training import TrainingRun


@dataclass
class Comparison:
    """What was compared, and what was not."""

    arms: tuple[Arm, Arm]
    training: TrainingComparison | None
    scores: ScoreComparison
    problems: list[str]

    @property
    def complete(self) -> bool:
        """Everything that was named could be compared, and only VISTA differs."""
        refused = self.training is not None and bool(self.training.refusals)
        return not (refused or self.problems or self.scores.not_compared)

    def headline(self) -> str:
        """What the report is about, and whether it is a comparison at all."""
        parts = []
        if self.training is not None:
            runs = len(self.training.baseline), len(self.training.vista)
            parts.append(
                "trainings that are NOT comparable"
                if self.training.refusals
                else f"trainings ({runs[0]} and {runs[1]} runs)"
            )
        if self.scores.rows:
            tasks = {(row.harness, row.task) for row in self.scores.rows if row.harness and row.task != "average"}
            parts.append(f"{len(tasks)} evaluated tasks")
        left = len(self.scores.not_compared) + len(self.problems)
        if left:
            parts.append(f"{left} thing{'s' if left > 1 else ''} that could not be compared (named at the end)")
        return f"Baseline against VISTA: {', '.join(parts) or 'nothing to compare'}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the JSON report."""
        return {
            "llava_vista": __version__,
            "comparable": self.training is None or not self.training.refusals,
            "complete": self.complete,
            "training": None if self.training is None else _training_dict(self.training),
            "scores": [row.to_dict() for row in self.scores.rows],
            "not_compared": self.scores.not_compared,
            "problems": self.problems,
            "notes": self.scores.notes,
            "published_source": source(),
        }


def _training_dict(training: TrainingComparison) -> dict[str, Any]:
    def run(item: TrainingRun) -> dict[str, Any]:
        series = {key: item.series(key) for key in ("ce_loss", "vista_loss", "vista_similarity")}
        return {
            "folder": str(item.folder),
            "vista": describe_vista(item),
            "seed": item.seed,
            "curves": {key: {"steps": steps, "values": values} for key, (steps, values) in series.items() if steps},
        }

    return {
        "refusals": training.refusals,
        "notes": training.notes,
        "settings": [vars(check) for check in training.checks],
        "numbers": [row.to_dict() for row in training.rows],
        "vista_terms": vista_summary(training.vista),
        "baseline": [run(item) for item in training.baseline],
        "vista": [run(item) for item in training.vista],
    }


def compare(baseline: Sequence[str], vista: Sequence[str]) -> Comparison:
    """Read and compare the directories of two arms.

    Raises:
        CompareError: one of them is not a directory.
    """
    arms = read_arm("baseline", baseline), read_arm("VISTA", vista)
    problems = [problem for arm in arms for problem in arm.problems]
    training = None
    if arms[0].trainings and arms[1].trainings:
        training = compare_trainings(arms[0].trainings, arms[1].trainings)
    for arm, other in (arms, arms[::-1]):
        if arm.trainings and not other.trainings:
            problems.append(f"there are trainings in the {arm.name} arm only, so they are not compared.")
    return Comparison(arms, training, compare_scores(arms[0].evals, arms[1].evals), problems)
