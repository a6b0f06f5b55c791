"""From the logged questions of two runs to `Paired` scores that give the reported numbers back.

What a harness logs per question is not always what its number is the mean of. So each way of aggregating that is known
is tried, and only one that reproduces the reported number of both runs is used for intervals and tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .scores import Samples, Score
from .stats import Array, Paired, mean_of

#: Relative; the harness sums in another order, and LLaVA's logs have 2 digits.
_TOLERANCE = 1e-6

Entries = Sequence[Any]


class NotPaired(Exception):
    """The questions cannot be paired; the message says why."""


def _number(entry: Any) -> float:
    """A question's score: a number, the ``score`` of an entry, or whether ``pred`` is the ``answer`` (SEED-Bench)."""
    if isinstance(entry, Mapping):
        if "score" in entry:
            entry = entry["score"]
        else:
            return float(str(entry["pred"]).strip().lower() == str(entry["answer"]).strip().lower())
    return float(entry)


def _mean(baseline: Entries, vista: Entries) -> Paired:
    return mean_of([_number(entry) for entry in baseline], [_number(entry) for entry in vista])


def _scaled(factor: float) -> Callable[[Entries, Entries], Paired]:
    def build(baseline: Entries, vista: Entries) -> Paired:
        return Paired(_mean(baseline, vista).strata, [factor])

    return build


def _by(name: str, entries: Entries) -> dict[str, list[int]]:
    """Positions of the entries by one of their fields."""
    groups: dict[str, list[int]] = {}
    for position, entry in enumerate(entries):
        groups.setdefault(str(entry[name]), []).append(position)
    return groups


def _mme(baseline: Entries, vista: Entries) -> Paired:
    """MME: per category the mean over images of 100 acc + 100 (both answers right), summed over categories."""
    strata = []
    for positions in _by("category", baseline).values():
        images = _by("question_id", [baseline[position] for position in positions])
        units = []
        for inside in images.values():
            arms = []
            for entries in (baseline, vista):
                scores = [_number(entries[positions[index]]) for index in inside]
                arms.append(100 * sum(scores) / len(scores) + 100 * (sum(scores) == 2))
            units.append(arms)
        strata.append(np.array(units, dtype=np.float64)[..., None])
    return Paired(strata, [1.0] * len(strata))


def _mean_of_categories(baseline: Entries, vista: Entries) -> Paired:
    """MMStar: the mean over ``l2_category`` of each one's mean."""
    groups = _by("l2_category", baseline).values()
    strata = [
        mean_of([_number(baseline[i]) for i in positions], [_number(vista[i]) for i in positions]).strata[0]
        for positions in groups
    ]
    return Paired(strata, [1 / len(strata)] * len(strata))


def _yes_no(reduce: Callable[[Array], Array]) -> Callable[[Entries, Entries], Paired]:
    """POPE: true positives, false positives and false negatives of "yes", reduced to one number."""

    def row(entry: Mapping[str, Any]) -> list[float]:
        says, is_so = entry["prediction"] == "yes", entry["ground_truth"] == "yes"
        no = entry["prediction"] == "no"
        return [float(says and is_so), float(says and not is_so), float(no and is_so)]

    def build(baseline: Entries, vista: Entries) -> Paired:
        rows = [[row(before), row(after)] for before, after in zip(baseline, vista, strict=True)]
        return Paired([np.array(rows, dtype=np.float64)], [1.0], reduce)

    return build


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _f1(x: Array) -> Array:
    return _ratio(2 * x[..., 0], 2 * x[..., 0] + x[..., 1] + x[..., 2])


def _precision(x: Array) -> Array:
    return _ratio(x[..., 0], x[..., 0] + x[..., 1])


def _recall(x: Array) -> Array:
    return _ratio(x[..., 0], x[..., 0] + x[..., 2])


#: Tried in this order; none is tied to a task's name.
_AGGREGATIONS: tuple[Callable[[Entries, Entries], Paired], ...] = (
    _mean,
    _scaled(100.0),
    _mme,
    _mean_of_categories,
    _yes_no(_f1),
    _yes_no(_precision),
    _yes_no(_recall),
)


def check_questions(baseline: Samples, vista: Samples) -> tuple[list[int], list[int]]:
    """Join the questions of two runs on their id.

    Returns:
        Positions in the one and in the other, of the questions that both have.

    Raises:
        ValueError: the same id stands for another prompt or another expected answer, so the tasks differ.
    """
    where = {name: position for position, name in enumerate(vista.ids)}
    pairs = [(position, where[name]) for position, name in enumerate(baseline.ids) if name in where]
    for what, before, after in (
        ("prompt hash", baseline.prompts, vista.prompts),
        ("expected answer", baseline.targets, vista.targets),
    ):
        different = [baseline.ids[i] for i, j in pairs if before[i] and after[j] and before[i] != after[j]]
        if different:
            raise ValueError(
                f"another {what} for {len(different)} of {len(pairs)} questions (the first: doc_id {different[0]})"
            )
    return [i for i, _ in pairs], [j for _, j in pairs]


def pair(metric: str, baseline: Score, vista: Score) -> Paired:
    """Pair two runs' questions for a metric.

    Args:
        metric: the key of the samples' entries.
        baseline: with samples.
        vista: with samples.

    Raises:
        NotPaired: questions are missing on one side, or no known aggregation gives the reported numbers.
        ValueError: see `check_questions`.
    """
    if baseline.samples is None or vista.samples is None:
        raise NotPaired("the questions were not logged, so there is no interval")
    before, after = check_questions(baseline.samples, vista.samples)
    sizes = len(baseline.samples.ids), len(vista.samples.ids)
    if len(before) < max(sizes):
        raise NotPaired(
            f"{sizes[0]} questions are logged for the baseline, {sizes[1]} with VISTA, {len(before)} in both"
        )
    if metric not in baseline.samples.entries or metric not in vista.samples.entries:
        raise NotPaired("the questions were logged without this metric")
    entries = [baseline.samples.entries[metric][i] for i in before], [vista.samples.entries[metric][j] for j in after]
    # MME's two metrics share a file: a question has the entry of one of them only.
    asked = [index for index, pairs in enumerate(zip(*entries, strict=True)) if None not in pairs]
    first, second = [entries[0][i] for i in asked], [entries[1][i] for i in asked]
    if asked:
        for build in _AGGREGATIONS:
            try:
                paired = build(first, second)
            except (KeyError, TypeError, ValueError):
                continue  # the entries are of another kind
            reported = (baseline.value, vista.value)
            if np.allclose(paired.scores(), reported, rtol=_TOLERANCE, atol=_TOLERANCE):
                return paired
    raise NotPaired(
        "no known way of aggregating the logged questions gives the reported numbers, so there is no interval"
    )
