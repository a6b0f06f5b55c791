"""The comparison as a report: headings, marked lines, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from ..kit.published_scores import published_source
from ..kit.report import NOTE, OK, PLAIN, WRONG, Figure, Heading, Line, Report, Table
from .comparison import Comparison
from .score_rows import QUESTIONS, SEEDS, ScoreRow
from .task_comparison import AVERAGE
from .training_comparison import TrainingComparison, describe_run, describe_vista, summarize_terms
from .training_conditions import SAME, UNKNOWN

#: Values of conditions that say nothing.
_NOTHING = ("", "None", "null", "{}")
#: The name of the training's figure; an evaluation's has the name of its harness.
CURVES = "curves"


def build_report(comparison: Comparison) -> Report:
    """Return the whole report."""
    report = Report([Heading("llava-vista compare", 1)])
    report.add_lines(PLAIN, comparison.headlines())
    if comparison.trainings:
        _add_trainings(report, comparison)
    for harness in comparison.scores.harnesses():
        _add_scores(report, comparison, harness)
    _add_reading(report, comparison)
    if left_out := [*comparison.not_compared, *comparison.problems]:
        report.add(Heading("Not compared"))
        report.add_lines(WRONG, left_out)
    return report


def _add_trainings(report: Report, comparison: Comparison) -> None:
    report.add(Heading("Training"))
    for arm in comparison.arms:
        if arm.trainings:
            kinds = ", ".join(dict.fromkeys(map(describe_vista, arm.trainings)))
            report.add(Line(PLAIN, f"{arm.name}: VISTA {kinds}; {'; '.join(map(describe_run, arm.trainings))}"))
    said = _grouped((line, training.arm) for training in comparison.trainings for line in _training_lines(training))
    for (mark, text), names in said.items():
        names_arms = len(names) < len(comparison.trainings)
        report.add(Line(mark, f"{', '.join(names)}: {text}" if names_arms else text))
    rows = [row for training in comparison.trainings for row in training.rows]
    tasks = [row.task for row in rows]
    rows.sort(key=lambda row: tasks.index(row.task))  # the arms of a number beside each other
    if rows:
        report.add(_score_table(rows))
        _add_notes(report, rows, lambda row: row.task)
    for training in comparison.trainings:
        terms = ["{name} {first:.4g} -> {last:.4g}".format(**term) for term in summarize_terms(training.vista)]
        if terms:
            report.add(Line(PLAIN, f"{training.arm}: {'; '.join(terms)}."))
    caption = "Cross-entropy of all arms (VISTA's ce_loss against the baseline's loss), and VISTA's terms."
    report.add(Figure(CURVES, caption))


def _training_lines(training: TrainingComparison) -> Iterable[tuple[str, str]]:
    """Yield (mark, text) of everything about an arm's conditions."""
    if training.refusals:
        yield WRONG, "NOT A COMPARISON OF VISTA: something else differs, or VISTA does not."
        yield from ((WRONG, f"{reason}.") for reason in training.refusals)
    else:
        yield OK, "Nothing that is recorded differs but VISTA."
    unknown = "not recorded in every run, cannot be checked"
    for mark, status, title in ((OK, SAME, "the same"), (NOTE, UNKNOWN, unknown)):
        topics = _grouped((check.topic, check.name) for check in training.checks if check.status == status)
        texts = []
        for topic, names in topics.items():
            listed = ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
            texts.append(f"{topic} ({listed})")
        if texts:
            yield mark, f"{title}: {'; '.join(texts)}."
    yield from ((NOTE, f"{note}.") for note in training.notes)


def _grouped(pairs: Iterable[tuple[Any, str]]) -> dict[Any, list[str]]:
    """Return the different texts of each key."""
    groups: dict[Any, dict[str, None]] = {}
    for key, text in pairs:
        groups.setdefault(key, {})[text] = None
    return {key: list(texts) for key, texts in groups.items()}


def _add_scores(report: Report, comparison: Comparison, harness: str) -> None:
    scores = comparison.scores
    rows = [row for row in scores.rows if row.harness == harness]
    main = scores.headline_rows(harness)
    other = [row for row in rows if row not in main]
    report.add(Heading(f"Evaluation: {harness}"))
    for arm in comparison.arms:
        runs = [run for run in arm.evaluations if run.harness == harness]
        described = (f"{run.folder} ({', '.join(filter(None, (run.model, run.date)))})" for run in runs)
        report.add(Line(PLAIN, f"{arm.name}: {'; '.join(described) or 'not evaluated'}"))
    same = [f"{name} {value}" for name, value in scores.conditions[harness].items() if value not in _NOTHING]
    if same:
        report.add(Line(OK, f"the same for all of these tasks: {', '.join(same)}."))
    if main:
        report.add(_score_table(main))
    if other:
        report.add(Line(PLAIN, "Further numbers of these tasks:"), _score_table(other))
    if main:
        caption = f"{harness}: change of each headline number with its 95% interval, in its own unit."
        report.add(Figure(harness, caption))
    _add_notes(report, rows, row_label)


def _add_notes(report: Report, rows: Sequence[ScoreRow], label: Callable[[ScoreRow], str]) -> None:
    """Add one line for the same note of several rows."""
    notes = _grouped((note, label(row)) for row in rows for note in row.notes)
    report.add_lines(NOTE, [f"{', '.join(labels)}: {note}" for note, labels in notes.items()])


def _add_reading(report: Report, comparison: Comparison) -> None:
    """Add what tests and intervals mean."""
    rows = comparison.scores.rows
    if not rows:
        return
    report.add(Heading("How to read it"))
    tests = {
        noise: sorted({row.test for row in rows if row.test and row.noise == noise}) for noise in (QUESTIONS, SEEDS)
    }
    if tests[QUESTIONS]:
        names = ", ".join(f"{test} ({QUESTIONS})" for test in tests[QUESTIONS])
        report.add(Line(NOTE, f"Tests: {names}; two-sided. Intervals: paired bootstrap of questions."))
    if tests[SEEDS]:
        report.add(Line(NOTE, f"Intervals and tests: {'; '.join(tests[SEEDS])}."))
    report.add_lines(NOTE, comparison.scores.notes)
    if any(row.published for row in rows):
        report.add(Line(NOTE, f"Published numbers: {published_source()}."))


def _score_table(rows: Sequence[ScoreRow]) -> Table:
    """Return a table of the columns that any of the rows fills."""
    spread = " (mean ± sd)" if any(max(len(row.baseline), len(row.vista)) > 1 for row in rows) else ""
    model = next((row.published["model"] for row in rows if row.published), None)
    titles = (
        *("task", "arm", "metric", "unit", "n", f"baseline{spread}", f"VISTA{spread}", "change", "95% interval", "p"),
        *("p, Holm", "verdict", f"published: {model}, l2, cosine"),
    )
    columns = zip(titles, zip(*map(_cells, rows), strict=True), strict=True)
    filled = {title: cells for title, cells in columns if set(cells) != {"-"}}
    words = frozenset(at for at, title in enumerate(filled) if title in ("task", "arm", "metric", "unit", "verdict"))
    return Table(tuple(filled), list(zip(*filled.values(), strict=True)), words)


def _cells(row: ScoreRow) -> list[str]:
    """Return a row's cells, "-" for what it does not have."""
    cells = [row.task, "-" if row.arm == "VISTA" else row.arm, row.metric, row.unit, str(row.questions or "-")]
    for runs in (row.baseline, row.vista):
        sd = f" ± {format_number(stdev(runs), row.unit)}" if len(runs) > 1 else ""
        cells.append(format_number(fmean(runs), row.unit) + sd)
    cells.append(format_number(row.change, row.unit, "+"))
    cells.append(" to ".join(format_number(end, row.unit, "+") for end in row.interval_95 or ()) or "-")
    cells += ["-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" for p in (row.p, row.p_holm)]
    published = row.published or {}
    numbers = [f"{published[arm]:.2f}" for arm in ("baseline", "l2", "cosine") if published]
    return [*cells, row.verdict, ", ".join(numbers) or "-"]


def format_number(value: float, unit: str, sign: str = "") -> str:
    """Return a value in its unit: 2 digits for points and percent, 4 for nats, 4 significant where nothing is known."""
    if unit.startswith("nats"):
        return f"{value:{sign}.{'4f' if unit == 'nats per token' else '3g'}}"
    return f"{value:{sign}.4g}" if unit == "as reported" and abs(value) < 1 else f"{value:{sign}.2f}"


def row_label(row: ScoreRow) -> str:
    """Return a row's name in figures and notes."""
    return row.task if row.task == AVERAGE else f"{row.task} {row.metric}"
