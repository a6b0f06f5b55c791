"""Results of the demo's two arms: numbers for results.json, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..kit.rendering import to_text
from ..kit.report import PLAIN, Line, Report, Table
from ..kit.training_folder import TrainingRun

_LAST_RECORDS = 3  # "at the end" is the mean of so many records
_HEAD = ("", "CE stage 1", "CE stage 2", "VISTA loss", "similarity", "held-out answers", "wall time")


@dataclass(frozen=True)
class Arm:
    """One arm: the training of each stage, its wall time in seconds, and the share of correct held-out answers."""

    title: str
    runs: dict[str, TrainingRun]
    seconds: dict[str, float]
    accuracy: float
    by_kind: dict[str, float]

    def summary(self) -> dict[str, Any]:
        """Return plain values for results.json."""
        stages = {}
        for stage, run in self.runs.items():
            stages[stage] = {
                "ce_first": run.series("ce_loss")[1][0],
                "ce_last": _at_end(run, "ce_loss"),
                "vista_loss_last": _at_end(run, "vista_loss"),
                "vista_similarity_last": _at_end(run, "vista_similarity"),
                "seconds": self.seconds[stage],
            }
        return {"name": self.title, "stages": stages, "accuracy": self.accuracy, "accuracy_by_kind": self.by_kind}


def _at_end(run: TrainingRun, key: str) -> float | None:
    values = run.series(key)[1][-_LAST_RECORDS:]
    return fmean(values) if values else None


def results_table(arms: Sequence[Arm], blind_guess: float) -> str:
    """Return the comparison as text."""
    rows: list[tuple[str, ...]] = []
    for arm in arms:
        stages = arm.summary()["stages"]
        curves = [f"{part['ce_first']:.2f} -> {part['ce_last']:.3f}" for part in stages.values()]
        final = [stages["finetune"][key] for key in ("vista_loss_last", "vista_similarity_last")]
        vista = ["-" if value is None else f"{value:.4f}" for value in final]
        rows.append((arm.title, *curves, *vista, f"{arm.accuracy:.1%}", f"{sum(arm.seconds.values()):.0f} s"))
    guess = f"A blind guess (the most frequent answer to the same question) gets {blind_guess:.1%}."
    return to_text(Report([Table(_HEAD, rows, frozenset(range(len(_HEAD)))), Line(PLAIN, guess)]))
