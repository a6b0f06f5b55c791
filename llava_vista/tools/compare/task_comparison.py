"""The task-by-task comparison: which scores may be compared, their change, and how certain it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ..kit.evaluation_scores import EvaluationRun, Score, ScoreKey
from ..kit.published_scores import published_model, published_scores, published_task
from .question_pairs import NotPaired, join_questions, pair_questions
from .score_rows import LEVEL, QUESTIONS, ScoreRow, adjust, pair_by_seed
from .training_conditions import DIFFERS, MISSING, check_condition

AVERAGE = "average"
AVERAGE_NOTE = (
    "The average is the unweighted mean of the tasks' headline numbers in percent; MME points, OCRBench's count and "
    "CIDEr are left out. The released tables of VISTA state no average; the mean of their numbers for the same tasks "
    "is beside it where they have all of them."
)
QUESTIONS_NOTE = (
    "One run per arm: intervals and tests say what other questions might have given, for these two models. They do not "
    "cover other training seeds; several runs per arm do."
)
MME_NOTE = (
    "LLaVA's own training differs by about 20 MME points from run to run (its author, in github.com/haotian-liu/LLaVA "
    "issue 680): with a single run per arm, a change of that size says nothing about VISTA."
)


@dataclass
class ScoreComparison:
    """Rows of what could be compared, the rest by name, and what a reader should know."""

    conditions: dict[str, dict[str, str]] = field(default_factory=dict)  # by harness: recorded, and the same everywhere
    rows: list[ScoreRow] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def headline_rows(self, harness: str | None = None) -> list[ScoreRow]:
        """Return the rows of headline numbers and averages, of one harness or of all."""
        rows = [row for row in self.rows if row.main or row.task == AVERAGE]
        return [row for row in rows if harness in (None, row.harness)]

    def harnesses(self) -> list[str]:
        return list(dict.fromkeys(row.harness for row in self.rows))

    def outcome(self, arm: str) -> str:
        """Return the verdicts on an arm's headline numbers in a sentence, "" when none was tested."""
        verdicts: dict[str, list[str]] = {}
        for row in self.rows:
            if row.main and row.arm == arm:
                changed = f" {row.change:+.2f}" if row.is_significant else ""
                verdicts.setdefault(row.verdict, []).append(f"{row.task}{changed}")
        untested = len(verdicts.pop("n/a", []))
        listed = [
            f"{len(names)} {'where ' * (verdict == 'no question differs')}{verdict}"
            + (f" ({', '.join(names)})" if verdict in ("better", "worse", "higher", "lower") else "")
            for verdict, names in verdicts.items()
        ]
        tested = f"Of {sum(map(len, verdicts.values()))} tested headline numbers: {', '.join(listed)}."
        return "" if not listed else tested + (f" {untested} could not be tested." if untested else "")

    def count_tasks(self) -> int:
        return len({(row.harness, row.task) for row in self.rows if row.task != AVERAGE})


def compare_scores(arms: Sequence[tuple[str, Sequence[EvaluationRun]]]) -> ScoreComparison:
    """Compare what was evaluated in each arm and in the baseline, the first one, harness by harness."""
    result = ScoreComparison()
    for harness in dict.fromkeys(run.harness for _, evaluations in arms for run in evaluations):
        (_, baseline), *others = [(arm, [run for run in runs if run.harness == harness]) for arm, runs in arms]
        for arm, runs in others:
            if baseline and runs:
                paired, pairing = pair_by_seed(baseline, runs)
                rows = _compare_harness(harness, arm, (baseline, paired), pairing, result)
                result.rows += rows
                result.rows += _average([row for row in rows if row.main and row.unit == "%"], pairing)
            else:
                result.not_compared.append(
                    f"{harness}: no results for the {arm if baseline else 'baseline'} arm. Numbers of different "
                    "harnesses are never compared."
                )
        tasks = {row.task for row in result.rows}
        compared = [score.conditions for run in baseline for key, score in run.scores.items() if key.task in tasks]
        first = compared[0] if compared else {}
        result.conditions[harness] = {
            name: value for name, value in first.items() if all(of.get(name) == value for of in compared)
        }
    keys = list(dict.fromkeys(row.key for row in result.rows))  # the arms of a number one below the other
    result.rows.sort(key=lambda row: (row.task == AVERAGE, keys.index(row.key)))
    _adjust(result)
    return result


def _compare_harness(
    harness: str, arm: str, arms: Sequence[Sequence[EvaluationRun]], pairing: str | None, result: ScoreComparison
) -> list[ScoreRow]:
    rows: dict[ScoreKey, ScoreRow] = {}
    runs = [run for arm in arms for run in arm]
    model = published_model(run.model for run in runs)
    refused: dict[str, None] = {}  # one line per reason, not one per metric
    for key in dict.fromkeys(key for run in runs for key in run.scores):
        without = [run for run in runs if key not in run.scores]
        if without:
            has_task = any(key.task == other.task for run in without for other in run.scores)
            name = f"{key.task} ({key.metric})" if has_task else key.task
            refused[f"{name}: missing in {', '.join(str(run.folder) for run in without)}."] = None
            continue
        baseline, vista = ([run.scores[key] for run in of] for of in arms)
        if reason := _incomparable(key.task, arm, baseline, vista):
            refused[f"{reason}."] = None
        else:
            rows[key] = _row(key, arm, baseline, vista, pairing, model)
    result.not_compared += refused
    # A task's headline is the number that was published for it; else it stays what its harness lists first.
    published = {key for key in rows if published_task(key)}
    for key, row in rows.items():
        if key.task in {known.task for known in published}:
            row.main = key in published
    if model is None and published:
        names = ", ".join(dict.fromkeys(run.model for run in runs))
        result.notes.append(
            "No published numbers are shown: they are of LLaVA-1.5-7B and TinyLLaVA-Phi-2, and the evaluated models "
            f"are not one of the two by their names ({names})."
        )
    return list(rows.values())


def _incomparable(task: str, arm: str, baseline: Sequence[Score], vista: Sequence[Score]) -> str | None:
    """Return why the scores are not of the same task, asked in the same way; None when they are."""
    before, after = (
        [{**score.conditions, "number of questions": score.count} for score in of] for of in (baseline, vista)
    )
    for name in dict.fromkeys(name for conditions in (*before, *after) for name in conditions):
        values = ([run.get(name, MISSING) for run in of] for of in (before, after))
        check = check_condition(task, name, *values)
        if check.status == DIFFERS:
            return check.sentence(arm)
    logged = [score.questions for score in (*baseline, *vista) if score.questions]
    try:
        for other in logged[1:]:
            join_questions(logged[0], other)
    except NotPaired as error:
        return f"{task}: {error}"
    return None


def _row(
    key: ScoreKey, arm: str, baseline: Sequence[Score], vista: Sequence[Score], pairing: str | None, model: str | None
) -> ScoreRow:
    first, published = baseline[0], published_task(key)
    if published is not None:
        scale, unit = float(published["scale"]), str(published["unit"])
    elif first.unit:
        scale, unit = 1.0, first.unit
    elif all(0 <= score.value <= 1 for score in (*baseline, *vista)):
        scale, unit = 100.0, "%"
    else:
        scale, unit = 1.0, "points" if key.task.lower().startswith("mme") else "as reported"
    before, after = ([scale * score.value for score in of] for of in (baseline, vista))
    row = ScoreRow(*key, unit, before, after, first.higher_is_better, first.count, first.main, arm=arm)
    row.published = published_scores(key, model)
    if len(baseline) == len(vista) == 1:
        try:
            row.test_questions(pair_questions(key.metric.partition(" (")[0], first, vista[0]).scaled(scale))
        except NotPaired as reason:
            row.notes.append(f"{reason}.")
    else:
        row.test_seeds(pairing)
        if row.test is None:
            row.notes.append("one arm has a single run, so the noise between seeds is not known.")
    if row.higher_is_better is None:
        row.notes.append("the harness does not say whether higher is better.")
    if row.published and row.published["note"]:
        row.notes.append(f"published {row.published['name']}: {row.published['note']}.")
    return row


def _average(rows: Sequence[ScoreRow], pairing: str | None) -> list[ScoreRow]:
    """Return the row of the unweighted mean of several headline numbers of one arm."""
    if len(rows) < 2:
        return []
    baseline, vista = (
        [fmean(values) for values in zip(*arm, strict=True)]
        for arm in ([row.baseline for row in rows], [row.vista for row in rows])
    )
    higher = all(row.higher_is_better for row in rows) or None
    metric, first = f"over {len(rows)} numbers", rows[0]
    average = ScoreRow(first.harness, AVERAGE, metric, "%", baseline, vista, higher, main=False, arm=first.arm)
    known = [row.published for row in rows if row.published]
    if len(known) == len(rows):
        means = {name: fmean(entry[name] for entry in known) for name in ("baseline", "l2", "cosine")}
        average.published = {"name": f"mean of these {len(rows)}", "model": known[0]["model"], **means, "note": None}
    average.test_seeds(pairing)
    pairs = [row.paired for row in rows if row.paired is not None and row.paired.is_mean]
    if len(pairs) == len(rows):
        average.test_questions(pairs[0].mean(pairs))
    return [average]


def _adjust(result: ScoreComparison) -> None:
    """Adjust the p values for the number of tests, and note what a reader should know."""
    rows = result.rows
    headline = [row for row in rows if row.p is not None and row.main]
    averages = [row for row in rows if row.task == AVERAGE]
    for family in (headline, averages, [row for row in rows if not row.main and row.task != AVERAGE]):
        adjust(family)
    if len(headline) > 1:
        result.notes.append(
            f"{len(headline)} headline numbers were tested: about {LEVEL * len(headline):.1f} of them would have p < "
            f"{LEVEL} by chance alone. A verdict needs that after Holm's adjustment (for further numbers among these), "
            "and an interval without 0."
        )
    is_single = any(row.unit == "points" and min(len(row.baseline), len(row.vista)) == 1 for row in rows)
    is_of_questions = any(row.noise == QUESTIONS for row in rows)
    notes = {QUESTIONS_NOTE: is_of_questions, AVERAGE_NOTE: bool(averages), MME_NOTE: is_single}
    result.notes += [note for note, applies in notes.items() if applies]
