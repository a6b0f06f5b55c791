"""The comparison as a report: headings, marked lines, tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

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
    _add_scores(report, comparison)
    left_out = [*comparison.not_compared, *comparison.problems]
    if left_out:
        report.add(Heading("Not compared"))
        report.add_lines(WRONG, left_out)
    return report


def _add_trainings(report: Report, comparison: Comparison) -> None:
    report.add(Heading("Training"))
    for arm in comparison.arms:
        kinds = ", ".join(dict.fromkeys(map(describe_vista, arm.trainings)))
        if kinds:
            report.add(Line(PLAIN, f"{arm.name}: VISTA {kinds}; {'; '.join(map(describe_run, arm.trainings))}"))
    # What is said of every arm is one line, without their names.
    said: dict[tuple[str, str], list[str]] = {}
    for training in comparison.trainings:
        for line in _training_lines(training):
            said.setdefault(line, []).append(training.arm)
    for (mark, text), names in said.items():
        is_common = len(names) == len(comparison.trainings)
        report.add(Line(mark, text if is_common else f"{', '.join(names)}: {text}"))
    rows = [row for training in comparison.trainings for row in training.rows]
    tasks = [row.task for row in rows]
    rows.sort(key=lambda row: tasks.index(row.task))  # the arms of a number beside each other
    if rows:
        report.add(_score_table(rows))
        report.add_lines(NOTE, _grouped((row.task, note) for row in rows for note in row.notes))
    for training in comparison.trainings:
        terms = [
            f"{term['name']} {term['first']:.4g} -> {term['last']:.4g}" for term in summarize_terms(training.vista)
        ]
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
    for mark, status, title in (
        (OK, SAME, "the same"),
        (NOTE, UNKNOWN, "not recorded in every run, cannot be checked"),
    ):
        topics: dict[str, list[str]] = {}
        for check in training.checks:
            if check.status == status:
                topics.setdefault(check.topic, []).append(check.name)
        if topics:
            yield mark, f"{title}: {'; '.join(f'{topic} ({_shortened(names)})' for topic, names in topics.items())}."
    yield from ((NOTE, f"{note}.") for note in training.notes)


def _grouped(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return one line for the same note of several rows."""
    labels: dict[str, list[str]] = {}
    for label, note in notes:
        labels.setdefault(note, []).append(label)
    return [f"{', '.join(dict.fromkeys(of))}: {note}" for note, of in labels.items()]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _add_scores(report: Report, comparison: Comparison) -> None:
    scores = comparison.scores
    for harness in scores.harnesses():
        rows = [row for row in scores.rows if row.harness == harness]
        main = scores.headline_rows(harness)
        other = [row for row in rows if row not in main]
        report.add(Heading(f"Evaluation: {harness}"))
        for arm in comparison.arms:
            runs = [run for run in arm.evaluations if run.has(harness)]
            described = (f"{run.folder} ({', '.join(filter(None, (run.model, run.date)))})" for run in runs)
            report.add(Line(PLAIN, f"{arm.name}: {'; '.join(described) or 'not evaluated'}"))
        same = ", ".join(
            f"{name} {value}" for name, value in scores.conditions[harness].items() if value not in _NOTHING
        )
        if same:
            report.add(Line(OK, f"the same for all of these tasks: {same}."))
        if main:
            report.add(_score_table(main))
        if other:
            report.add(Line(PLAIN, "Further numbers of these tasks:"), _score_table(other))
        if main:
            caption = f"{harness}: change of each headline number with its 95% interval, in its own unit."
            report.add(Figure(harness, caption))
        report.add_lines(NOTE, _grouped((row_label(row), note) for row in rows for note in row.notes))
    if not scores.rows:
        return
    report.add(Heading("How to read it"))
    tests = {
        noise: sorted({row.test for row in scores.rows if row.test and row.noise == noise})
        for noise in (QUESTIONS, SEEDS)
    }
    if tests[QUESTIONS]:
        names = ", ".join(f"{test} ({QUESTIONS})" for test in tests[QUESTIONS])
        report.add(Line(NOTE, f"Tests: {names}; two-sided. Intervals: paired bootstrap of questions."))
    if tests[SEEDS]:
        report.add(Line(NOTE, f"Intervals and tests: {'; '.join(tests[SEEDS])}."))
    report.add_lines(NOTE, scores.notes)
    if any(row.published for row in scores.rows):
        report.add(Line(NOTE, f"Published numbers: {published_source()}."))


def _score_table(rows: Sequence[ScoreRow]) -> Table:
    """Return a table of the columns that any of the rows fills."""
    spread = " (mean ± sd)" if any(max(len(row.baseline), len(row.vista)) > 1 for row in rows) else ""
    model = next((row.published["model"] for row in rows if row.published), None)
    columns = {
        "task": [row.task for row in rows],
        "arm": ["-" if row.arm == "VISTA" else row.arm for row in rows],
        "metric": [row.metric for row in rows],
        "unit": [row.unit for row in rows],
        "n": ["-" if row.questions is None else str(row.questions) for row in rows],
        f"baseline{spread}": [_mean_and_spread(row.baseline, row.unit) for row in rows],
        f"VISTA{spread}": [_mean_and_spread(row.vista, row.unit) for row in rows],
        "change": [format_number(row.change, row.unit, "+") for row in rows],
        "95% interval": [
            " to ".join(format_number(end, row.unit, "+") for end in row.interval_95) if row.interval_95 else "-"
            for row in rows
        ],
        "p": [_probability(row.p) for row in rows],
        "p, Holm": [_probability(row.p_holm) for row in rows],
        "verdict": [row.verdict for row in rows],
        f"published: {model}, l2, cosine": [
            ", ".join(f"{row.published[arm]:.2f}" for arm in ("baseline", "l2", "cosine")) if row.published else "-"
            for row in rows
        ],
    }
    filled = {title: cells for title, cells in columns.items() if any(cell != "-" for cell in cells)}
    words = frozenset(at for at, title in enumerate(filled) if title in ("task", "arm", "metric", "unit", "verdict"))
    return Table(tuple(filled), list(zip(*filled.values(), strict=True)), words)


def _probability(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def format_number(value: float, unit: str, sign: str = "") -> str:
    """Return a value in its unit: 2 digits for points and percent, 4 for nats, 4 significant where nothing is known."""
    if unit.startswith("nats"):
        return f"{value:{sign}.{'4f' if unit == 'nats per token' else '3g'}}"
    return f"{value:{sign}.4g}" if unit == "as reported" and abs(value) < 1 else f"{value:{sign}.2f}"


def _mean_and_spread(numbers: Sequence[float], unit: str) -> str:
    mean = format_number(fmean(numbers), unit)
    return mean if len(numbers) == 1 else f"{mean} ± {format_number(stdev(numbers), unit)}"


def row_label(row: ScoreRow) -> str:
    """Return a row's name in figures and notes."""
    return row.task if row.task == AVERAGE else f"{row.task} {row.metric}"
