"""Results of the demo's two arms: numbers for results.json, the table, and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..kit.plots import curve_style, new_figure, save
from ..kit.rendering import to_text
from ..kit.report import PLAIN, Line, Report, Table
from ..kit.training_folder import TrainingRun

_LAST_RECORDS = 3  # "at the end" is the mean of so many records
_HEAD = ("", "CE stage 1", "CE stage 2", "VISTA loss", "similarity", "held-out answers", "wall time")
_STAGE_TITLES = {"pretrain": "Stage 1: projector", "finetune": "Stage 2: all"}


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


def _style(number: int) -> dict[str, Any]:
    return {**curve_style(number, marker=True), "markersize": 3}  # markers show a stage of one record


def draw_curves(arms: Sequence[Arm], path: Path) -> None:
    """Draw the cross-entropy and VISTA's terms of both arms, in both stages, as a PNG."""
    with new_figure(10, 6.5) as figure:
        axes = figure.subplots(2, 2, sharex="col")
        for column, (stage, title) in enumerate(_STAGE_TITLES.items()):
            upper, lower = axes[0][column], axes[1][column]
            for number, arm in enumerate(arms):
                upper.plot(*arm.runs[stage].series("ce_loss"), **_style(number), label=arm.title)
                loss, similarity = (arm.runs[stage].series(f"vista_{key}") for key in ("loss", "similarity"))
                lower.plot(*loss, **_style(number), label=f"{arm.title}: VISTA loss")
                lower.plot(*similarity, **_style(number + 2), label=f"{arm.title}: similarity (mean I)")
            upper.set_title(title)
            upper.set_ylabel("cross-entropy (nats per token)")
            lower.set_ylabel("VISTA terms before the weight")
            lower.set_xlabel("optimizer step")
            upper.legend()
            lower.legend()
        save(figure, [path])
