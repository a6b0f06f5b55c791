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
#: What says whether the alignment is about the image, in stage 2: log key, title, format.
_ABOUT_IMAGE = (
    ("vista_loss", "VISTA loss", ".4f"),
    ("vista_margin", "margin of the own text", ".5f"),
    ("vista_own_first", "own text ranked first", ".1%"),
    ("vista_information", "image's nats per token", ".4f"),
)
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
        return {
            "name": self.title,
            "stages": stages,
            "about_image": about_image(self),
            "accuracy": self.accuracy,
            "accuracy_by_kind": self.by_kind,
        }


def _at_end(run: TrainingRun, key: str) -> float | None:
    values = run.series(key)[1][-_LAST_RECORDS:]
    return fmean(values) if values else None


def about_image(arm: Arm) -> dict[str, list[float | None]]:
    """Return, for each key of `_ABOUT_IMAGE`, its means over the first and the last records of stage 2."""
    run = arm.runs["finetune"]
    series = {key: run.series(key)[1] for key, *_ in _ABOUT_IMAGE}
    return {
        key: [fmean(part) if part else None for part in (values[:_LAST_RECORDS], values[-_LAST_RECORDS:])]
        for key, values in series.items()
    }


def _about_image_table(arms: Sequence[Arm]) -> Report:
    rows = []
    for arm in arms:
        found = about_image(arm)
        cells = [[f"{value:{form}}" for value in found[key] if value is not None] for key, _, form in _ABOUT_IMAGE]
        rows.append((arm.title, *(" -> ".join(cell) or "-" for cell in cells)))
    head = ("stage 2", *(title for _, title, _ in _ABOUT_IMAGE))
    chances = [value for arm in arms for value in arm.runs["finetune"].series("vista_own_first_chance")[1]]
    note = "Alignment is about the image where the own text is ranked first more often than by chance"
    note += f" ({fmean(chances):.1%})." if chances else "."
    return Report([Table(head, rows, frozenset(range(len(head)))), Line(PLAIN, note)])


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
    answers = Report([Table(_HEAD, rows, frozenset(range(len(_HEAD)))), Line(PLAIN, guess)])
    return f"{to_text(answers)}\n\n{to_text(_about_image_table(arms))}"
