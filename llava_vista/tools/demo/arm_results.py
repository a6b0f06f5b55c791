"""Results of the demo's two arms: numbers for results.json, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..kit.rendering import to_text
from ..kit.report import PLAIN, Line, Report, Table
from ..kit.training_folder import TrainingRun

_RECORDS = 3  # "at the beginning" and "at the end" are the mean of so many
#: What says whether the alignment is about the image, in stage 2: log key, title, format.
_ABOUT_IMAGE = (
    ("vista_loss", "VISTA loss", ".4f"),
    ("vista_margin", "margin of the own text", ".5f"),
    ("vista_own_first", "own text ranked first", ".1%"),
    ("vista_information", "image's nats per token", ".4f"),
)
_HEAD = ("", "CE stage 1", "CE stage 2", "VISTA loss", "similarity", "held-out answers", "wall time")


def summarize(
    title: str, runs: Mapping[str, TrainingRun], seconds: Mapping[str, float], accuracy: float, kinds: dict[str, float]
) -> dict[str, Any]:
    """Return an arm's numbers as results.json has them; ``runs`` and ``seconds`` are by stage."""
    stages = {
        stage: {
            "ce_first": run.series("ce_loss")[1][0],
            "ce_last": _at_both_ends(run, "ce_loss")[1],
            "vista_loss_last": _at_both_ends(run, "vista_loss")[1],
            "vista_similarity_last": _at_both_ends(run, "vista_similarity")[1],
            "seconds": seconds[stage],
        }
        for stage, run in runs.items()
    }
    about_image = {key: _at_both_ends(runs["finetune"], key) for key, *_ in _ABOUT_IMAGE}
    shares = {"accuracy": accuracy, "accuracy_by_kind": kinds}
    return {"name": title, "stages": stages, "about_image": about_image, **shares}


def _at_both_ends(run: TrainingRun, key: str) -> list[float | None]:
    values = run.series(key)[1]
    return [fmean(part) if part else None for part in (values[:_RECORDS], values[-_RECORDS:])]


def results_tables(arms: Sequence[dict[str, Any]], blind_guess: float, chances: Sequence[float]) -> str:
    """Return the comparison as text. ``chances``: how often the own text would be ranked first by chance."""
    answers, about_image = [], []
    for arm in arms:
        stages = arm["stages"].values()
        curves = [f"{part['ce_first']:.2f} -> {part['ce_last']:.3f}" for part in stages]
        final = [arm["stages"]["finetune"][key] for key in ("vista_loss_last", "vista_similarity_last")]
        vista = ["-" if value is None else f"{value:.4f}" for value in final]
        seconds = sum(part["seconds"] for part in stages)
        answers.append((arm["name"], *curves, *vista, f"{arm['accuracy']:.1%}", f"{seconds:.0f} s"))
        found = [(arm["about_image"][key], form) for key, _, form in _ABOUT_IMAGE]
        cells = [[f"{value:{form}}" for value in values if value is not None] for values, form in found]
        about_image.append((arm["name"], *(" -> ".join(cell) or "-" for cell in cells)))
    guess = f"A blind guess (the most frequent answer to the same question) gets {blind_guess:.1%}."
    chance = f" ({fmean(chances):.1%})" if chances else ""
    note = f"Alignment is about the image where the own text is ranked first more often than by chance{chance}."
    head, left = ("stage 2", *(name for _, name, _ in _ABOUT_IMAGE)), frozenset(range(len(_HEAD)))
    report = Report()
    report.add(Table(_HEAD, answers, left), Line(PLAIN, guess), Table(head, about_image, left), Line(PLAIN, note))
    return to_text(report)
