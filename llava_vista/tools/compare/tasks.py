"""The task-by-task comparison: which scores may stand side by side, their change, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from .pairing import NotPaired, check_questions, pair
from .published import released_scores, released_task
from .rows import QUESTIONS, Row
from .scores import EvalRun, Score, ScoreKey
from .stats import Paired, holm, identity

AVERAGE = "average"
MME_NOISE = (
    "LLaVA's own training differs by about 20 MME points from run to run (its author, in github.com/haotian-liu/LLaVA "
    "issue 680): with a single run per arm, a change of that size says nothing about VISTA."
)
_MME_POINTS = 20


@dataclass
class ScoreComparison:
    """Rows that could be compared, the rest by name, and what a reader should know."""

    rows: list[Row] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare_scores(baseline: Sequence[EvalRun], vista: Sequence[EvalRun]) -> ScoreComparison:
    """Compare what was evaluated in both arms, harness by harness."""
    result = ScoreComparison()
    for harness in dict.fromkeys(key.harness for run in (*baseline, *vista) for key in run.scores):
        arms = [[run for run in arm if any(key.harness == harness for key in run.scores)] for arm in (baseline, vista)]
        if not all(arms):
            name = "VISTA" if arms[0] else "baseline"
            result.not_compared.append(
                f"{harness}: results for one arm only, none for the {name} arm. Numbers of different harnesses are "
                "never put side by side."
            )
            continue
        rows = _compare_harness(harness, arms[0], arms[1], result)
        _mark_main(rows)
        average = _average(harness, rows)
        result.rows += [*rows, *([average] if average else [])]
    _adjust(result)
    return result


def _compare_harness(
    harness: str, baseline: Sequence[EvalRun], vista: Sequence[EvalRun], result: ScoreComparison
) -> list[Row]:
    rows = []
    runs = (*baseline, *vista)
    keys = dict.fromkeys(key for run in runs for key in run.scores if key.harness == harness)
    refused: dict[str, None] = {}  # one line per reason, not one per metric
    tasks = {id(run): {key.task for key in run.scores} for run in runs}
    for key in keys:
        without = [run for run in runs if key not in run.scores]
        if without:
            task_is_there = any(key.task in tasks[id(run)] for run in without)
            name = f"{key.task} ({key.metric})" if task_is_there else key.task
            refused[f"{name}: missing in {', '.join(str(run.folder) for run in without)}."] = None
            continue
        arms = [[run.scores[key] for run in arm] for arm in (baseline, vista)]
        reason = _incomparable(arms[0], arms[1])
        if reason:
            refused[f"{key.task}: {reason}."] = None
        else:
            rows.append(_row(key, arms[0], arms[1], vista[0].model))
    result.not_compared += refused
    return rows


def _incomparable(baseline: Sequence[Score], vista: Sequence[Score]) -> str | None:
    """Why the scores are not of the same task, put in the same way; None when they are."""
    scores = (*baseline, *vista)
    settings = dict.fromkeys(name for score in scores for name in score.conditions)
    for name in settings:
        before, after = (
            " / ".join(dict.fromkeys(score.conditions.get(name, "not recorded") for score in arm))
            for arm in (baseline, vista)
        )
        if len({score.conditions.get(name) for score in scores}) > 1:
            return f"{name} differs ({before} in the baseline, {after} with VISTA)"
    counts = [" / ".join(dict.fromkeys(str(score.questions) for score in arm)) for arm in (baseline, vista)]
    if len({score.questions for score in scores}) > 1:
        return f"the number of questions differs ({counts[0]} in the baseline, {counts[1]} with VISTA)"
    first = next((score.samples for score in scores if score.samples), None)
    for score in scores:
        if first is not None and score.samples is not None and score.samples is not first:
            try:
                check_questions(first, score.samples)
            except ValueError as error:
                return str(error)
    return None


def _row(key: ScoreKey, baseline: Sequence[Score], vista: Sequence[Score], model: str) -> Row:
    values = [score.value for score in (*baseline, *vista)]
    released = released_task(key)
    if released is not None:
        scale, unit = float(released["scale"]), str(released["unit"])
    elif baseline[0].percent:
        scale, unit = 1.0, "%"
    elif all(0 <= value <= 1 for value in values):
        scale, unit = 100.0, "%"
    else:
        scale, unit = 1.0, "points" if key.task.lower().startswith("mme") else "as reported"
    row = Row(
        *key,
        unit,
        [scale * score.value for score in baseline],
        [scale * score.value for score in vista],
        baseline[0].higher_is_better,
        baseline[0].questions,
        main=baseline[0].main,
        published=released_scores(key, model),
    )
    if len(baseline) == len(vista) == 1:
        try:
            row.use_questions(pair(key.metric.partition(" (")[0], baseline[0], vista[0]), scale)
        except NotPaired as reason:
            row.notes.append(f"{reason}.")
    else:
        row.use_seeds()
        if row.test is None:
            row.notes.append("one arm has a single run, so the noise between seeds is not known.")
    if row.higher_is_better is None:
        row.notes.append("the harness does not say whether higher is better.")
    if row.published and row.published["note"]:
        row.notes.append(f"published {row.published['name']}: {row.published['note']}.")
    return row


def _mark_main(rows: Sequence[Row]) -> None:
    """A task's headline number is the one that was published for it; else what its harness lists first."""
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        if any(row.published for row in of_task):
            for row in of_task:
                row.main = row.published is not None


def _average(harness: str, rows: Sequence[Row]) -> Row | None:
    """The unweighted mean over the tasks' headline numbers in percent."""
    taken = [row for row in rows if row.main and row.unit == "%"]
    if len(taken) < 2:
        return None
    arms = [[fmean(values) for values in zip(*(getattr(row, arm) for row in taken), strict=True)]
            for arm in ("baseline", "vista")]  # fmt: skip
    published = None
    if all(row.published for row in taken):
        entries = [row.published for row in taken if row.published]
        published = {
            "name": f"mean of these {len(taken)}",
            "model": entries[0]["model"],
            **{arm: fmean(entry[arm] for entry in entries) for arm in ("baseline", "l2", "cosine")},
            "note": None,
        }
    higher = True if all(row.higher_is_better for row in taken) else None
    row = Row(
        harness, AVERAGE, f"over {len(taken)} numbers", "%", arms[0], arms[1], higher, main=False, published=published
    )
    if len(arms[0]) > 1 or len(arms[1]) > 1:
        row.use_seeds()
    pairs = [item.paired for item in taken if item.paired is not None and item.paired.reduce is identity]
    if len(pairs) == len(taken):  # the tasks' questions are other ones, so they are strata of one mean
        strata = [stratum for paired in pairs for stratum in paired.strata]
        weights = [weight / len(taken) for paired in pairs for weight in paired.weights]
        row.use_questions(Paired(strata, weights), 1.0)
    return row


def _adjust(result: ScoreComparison) -> None:
    """Adjust the p values of the headline numbers for their number, and say what a reader should know."""
    rows = result.rows
    tested = [row for row in rows if row.p is not None and row.main]
    for row, adjusted in zip(tested, holm([row.p for row in tested if row.p is not None]), strict=True):
        row.p_holm = adjusted
    if len(tested) > 1:
        still = [row.task for row in tested if row.p_holm is not None and row.p_holm < 0.05]
        result.notes.append(
            f"{len(tested)} headline numbers were tested: at p < 0.05 about {0.05 * len(tested):.1f} would stand out "
            f"by chance alone. After Holm's adjustment: {', '.join(dict.fromkeys(still)) or 'none'}."
        )
    if any(row.noise == QUESTIONS for row in rows):
        result.notes.append(
            "One run per arm: intervals and tests say what other questions might have given, for these two models. "
            "They do not know what another training seed would have given; several runs per arm tell."
        )
    if any(row.task == AVERAGE for row in rows):
        result.notes.append(
            "The average is the unweighted mean of the tasks' headline numbers in percent; MME points, OCRBench's "
            "count and CIDEr are left out. The released tables of VISTA state no average; the mean of their numbers "
            "for the same tasks stands beside it where they have all of them."
        )
    single = [row for row in rows if _is_mme_perception(row) and min(len(row.baseline), len(row.vista)) == 1]
    if single:
        result.notes.append(MME_NOISE)
    for row in single:
        if abs(row.change) <= _MME_POINTS:
            row.notes.append("within LLaVA's run-to-run noise of about 20 points.")


def _is_mme_perception(row: Row) -> bool:
    """What LLaVA reports as its MME score."""
    name = f"{row.task} {row.metric}".lower()
    return row.unit == "points" and name.startswith("mme") and "perception" in name
