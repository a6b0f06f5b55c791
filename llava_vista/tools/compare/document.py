"""The report as blocks (headings, marked lines, tables, figures), from which each output format is rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from .comparison import Comparison
from .curves import TrainingComparison, describe_vista, vista_summary
from .published import source
from .rows import QUESTIONS, SEEDS, Row
from .settings import DIFFERS, SAME, UNKNOWN
from .tasks import AVERAGE

OK, WRONG, NOTE = "ok", "!!", "--"
#: The name of the training's figure; an evaluation's has the name of its harness.
CURVES = "curves"


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Line:
    """A sentence marked ok, wrong (!!) or worth knowing (--)."""

    mark: str
    text: str


@dataclass(frozen=True)
class Table:
    """Cells as text. Columns whose index is in ``left`` are words, the others numbers."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: frozenset[int] = field(default_factory=lambda: frozenset({0}))


@dataclass(frozen=True)
class Picture:
    """A place for a figure, with what it shows in words."""

    name: str
    caption: str


Block = Heading | Line | Table | Picture


def number(value: float, unit: str, sign: bool = False) -> str:
    """A value in its unit: 2 digits for points and percent, 4 for nats, 4 significant ones where nothing is known."""
    plus = "+" if sign else ""
    if unit.startswith("nats"):
        return f"{value:{plus}.4f}"
    if unit == "as reported" and abs(value) < 1:
        return f"{value:{plus}.4g}"
    return f"{value:{plus}.2f}"


def values(numbers: Sequence[float], unit: str) -> str:
    """The value, or mean and spread of several runs."""
    if len(numbers) == 1:
        return number(numbers[0], unit)
    return f"{number(fmean(numbers), unit)} ± {number(stdev(numbers), unit)}"


def probability(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def label(row: Row) -> str:
    """A row's name in figures and notes."""
    return row.task if row.task == AVERAGE else f"{row.task} {row.metric}"


def _score_table(rows: Sequence[Row]) -> Table:
    several = any(len(row.baseline) > 1 or len(row.vista) > 1 for row in rows)
    spread = " (mean ± sd)" if several else ""
    model = next((row.published["model"] for row in rows if row.published), None)
    head = ["task", "metric", "unit", "n", f"baseline{spread}", f"VISTA{spread}", "change", "95% interval", "relative"]
    head += ["p", "verdict", *([f"published: {model}, l2, cosine"] if model else [])]
    cells = []
    for row in rows:
        interval = "-"
        if row.interval:
            interval = " to ".join(number(end, row.unit, sign=True) for end in row.interval)
        cell = [
            row.task,
            row.metric,
            row.unit,
            "-" if row.questions is None else str(row.questions),
            values(row.baseline, row.unit),
            values(row.vista, row.unit),
            number(row.change, row.unit, sign=True),
            interval,
            "-" if row.relative is None else f"{row.relative:+.1%}",
            probability(row.p),
            row.verdict,
        ]
        if model:
            known = row.published
            cell.append(f"{known['baseline']:.2f}, {known['l2']:.2f}, {known['cosine']:.2f}" if known else "-")
        cells.append(tuple(cell))
    told = [column for column in range(len(head)) if any(cell[column] != "-" for cell in cells)]
    left = frozenset(at for at, column in enumerate(told) if column in (0, 1, 2, 10))
    return Table(tuple(head[at] for at in told), [tuple(cell[at] for at in told) for cell in cells], left)


def _training(training: TrainingComparison) -> list[Block]:
    blocks: list[Block] = [Heading("Training")]
    for name, runs in (("baseline", training.baseline), ("VISTA", training.vista)):
        kinds = ", ".join(dict.fromkeys(describe_vista(run) for run in runs))
        blocks.append(Line("", f"{name}: VISTA {kinds}; {', '.join(str(run.folder) for run in runs)}"))
    if training.refusals:
        blocks.append(Line(WRONG, "NOT A COMPARISON OF VISTA: something else differs, or VISTA does not."))
        blocks += [Line(WRONG, f"{reason}.") for reason in training.refusals]
    else:
        blocks.append(Line(OK, "Nothing that is recorded differs but VISTA."))
    by_topic: dict[str, dict[str, list[str]]] = {SAME: {}, UNKNOWN: {}, DIFFERS: {}}
    for check in training.checks:
        by_topic[check.status].setdefault(check.topic, []).append(check.name)
    if by_topic[SAME]:
        listed = "; ".join(_listed(topic, names) for topic, names in by_topic[SAME].items())
        blocks.append(Line(OK, f"the same: {listed}."))
    if by_topic[UNKNOWN]:
        listed = "; ".join(_listed(topic, names) for topic, names in by_topic[UNKNOWN].items())
        blocks.append(Line(NOTE, f"not recorded in every run, cannot be checked: {listed}."))
    blocks += [Line(NOTE, f"{note}.") for note in training.notes]
    if training.rows:
        blocks.append(_score_table(training.rows))
        blocks += [Line(NOTE, f"{row.task}: {note}") for row in training.rows for note in row.notes]
    for entry in vista_summary(training.vista):
        blocks.append(Line("", f"{entry['name']} of the VISTA arm: {entry['first']:.4f} -> {entry['last']:.4f}"))
    blocks.append(
        Picture(CURVES, "Cross-entropy of both arms (VISTA's ce_loss against the baseline's loss), and VISTA's terms.")
    )
    return blocks


def _listed(topic: str, names: Sequence[str]) -> str:
    shown = ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
    return f"{topic} ({shown})"


def _scores(comparison: Comparison) -> list[Block]:
    blocks: list[Block] = []
    scores = comparison.scores
    for harness in dict.fromkeys(row.harness for row in scores.rows):
        rows = [row for row in scores.rows if row.harness == harness]
        blocks.append(Heading(f"Evaluation: {harness}"))
        main = [row for row in rows if row.main or row.task == AVERAGE]
        other = [row for row in rows if row not in main]
        if main:
            blocks.append(_score_table(main))
        if other:
            blocks += [Line("", "Further numbers of these tasks:"), _score_table(other)]
        if main:
            blocks.append(
                Picture(
                    harness, f"{harness}: change of each headline number relative to the baseline, with its interval."
                )
            )
        notes: dict[str, list[str]] = {}  # the same note of several rows is said once
        for row in rows:
            for note in row.notes:
                notes.setdefault(note, []).append(label(row))
        blocks += [Line(NOTE, f"{', '.join(labels)}: {note}") for note, labels in notes.items()]
    if scores.rows:
        blocks.append(Heading("How to read it"))
        tests = sorted({f"{row.test} ({row.noise})" for row in scores.rows if row.test and row.noise == QUESTIONS})
        if tests:
            blocks.append(
                Line(NOTE, f"Tests: {', '.join(tests)}; two-sided. Intervals: paired bootstrap of questions.")
            )
        if any(row.noise == SEEDS for row in scores.rows):
            tests = sorted({row.test for row in scores.rows if row.test and row.noise == SEEDS})
            blocks.append(
                Line(NOTE, f"Intervals and tests: {', '.join(tests)}, with runs in the order they were named.")
            )
        blocks += [Line(NOTE, note) for note in scores.notes]
        if any(row.published for row in scores.rows):
            blocks.append(Line(NOTE, f"Published numbers: {source()}."))
    return blocks


def build(comparison: Comparison) -> list[Block]:
    """The whole report."""
    blocks: list[Block] = [Heading("llava-vista compare", 1), Line("", comparison.headline())]
    if comparison.training is not None:
        blocks += _training(comparison.training)
    blocks += _scores(comparison)
    left_out = [*comparison.scores.not_compared, *comparison.problems]
    if left_out:
        blocks.append(Heading("Not compared"))
        blocks += [Line(WRONG, text) for text in left_out]
    return blocks
