"""From the logged questions of two runs to `Paired` scores whose aggregate is the reported number.

What a harness logs per question is not always what its number is the mean of. So each known aggregation is tried, and
only one that reproduces the reported number of both runs is used for intervals and tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..kit.evaluation_scores import Question, Score

if TYPE_CHECKING:
    from ..kit.statistics import Array, Paired

#: Relative; the harness sums in another order, and LLaVA's logs have 2 digits.
_TOLERANCE = 1e-6


class NotPaired(Exception):
    """The questions cannot be paired; the message says why."""


def _scores(entries: Sequence[Any]) -> list[float]:
    """Return each entry's score: a number, its ``score``, or whether ``pred`` is the ``answer`` (SEED-Bench)."""
    scores = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            scores.append(float(entry))
        elif "score" in entry:
            scores.append(float(entry["score"]))
        else:
            said, right = (str(entry[name]).strip().lower() for name in ("pred", "answer"))
            scores.append(float(said == right))
    return scores


def _mme_image(entries: Sequence[Any]) -> list[float]:
    """Return an image's accuracy in percent over its two questions, and 100 more when both are right."""
    scores = _scores(entries)
    return [100 * sum(scores) / len(scores) + 100 * (sum(scores) == 2)]


def _yes_counts(entries: Sequence[Any]) -> list[float]:
    """Return true positives, false positives and false negatives of "yes" (POPE)."""
    (entry,) = entries
    said, is_yes = entry["prediction"], entry["ground_truth"] == "yes"
    return [float(said == "yes" and is_yes), float(said == "yes" and not is_yes), float(said == "no" and is_yes)]


def _ratio(above: Sequence[float], below: Sequence[float]) -> Callable[[Array], Array]:
    """Return the ratio of two weighted sums of (..., k) features, where 0 / 0 is 0."""
    return lambda x: x @ above / (x @ below).clip(min=1e-300)


@dataclass(frozen=True)
class Aggregation:
    """How a number is computed from questions: units in strata, and the sum or mean over strata of their means."""

    features: Callable[[Sequence[Any]], list[float]] = _scores  # of the entries of one unit in one arm
    unit: str | None = None  # the field whose equal values make one unit; None: each question is one
    stratum: str | None = None  # the field that splits the questions
    averages: bool = False  # strata are averaged instead of summed
    reduce: Callable[[Array], Array] | None = None  # a stratum's mean features (..., k) to (...); None: k is 1
    factor: float = 1.0

    def pair(self, baseline: Sequence[Any], vista: Sequence[Any]) -> Paired:
        """Pair the entries of the same questions. KeyError, TypeError, ValueError: they are of another kind."""
        from ..kit.statistics import Paired

        strata: dict[Any, dict[Any, list[int]]] = {}
        for position, entry in enumerate(baseline):
            units = strata.setdefault(entry[self.stratum] if self.stratum else None, {})
            units.setdefault(entry[self.unit] if self.unit else position, []).append(position)
        features = [
            [[self.features([arm[i] for i in unit]) for arm in (baseline, vista)] for unit in units.values()]
            for units in strata.values()
        ]
        weight = self.factor / len(strata) if self.averages else self.factor
        return Paired(features, [weight] * len(strata), self.reduce)


#: Tried in this order; none depends on a task's name.
_AGGREGATIONS = (
    Aggregation(),
    Aggregation(factor=100.0),
    Aggregation(_mme_image, unit="question_id", stratum="category"),
    Aggregation(stratum="l2_category", averages=True),  # MMStar
    Aggregation(_yes_counts, reduce=_ratio((2, 0, 0), (2, 1, 1))),  # F1
    Aggregation(_yes_counts, reduce=_ratio((1, 0, 0), (1, 1, 0))),  # precision
    Aggregation(_yes_counts, reduce=_ratio((1, 0, 0), (1, 0, 1))),  # recall
)


def join_questions(baseline: Mapping[str, Question], vista: Mapping[str, Question]) -> list[str]:
    """Return the ids of the questions that both have.

    Raises:
        NotPaired: the same id names another prompt or another expected answer, so the tasks differ.
    """
    shared = [name for name in baseline if name in vista]
    for at, what in enumerate(("prompt hash", "expected answer")):
        hashes = {name: (baseline[name][at], vista[name][at]) for name in shared}
        different = [name for name, (before, after) in hashes.items() if before and after and before != after]
        if different:
            raise NotPaired(
                f"another {what} for {len(different)} of {len(shared)} questions (the first: doc_id {different[0]})"
            )
    return shared


def pair_questions(metric: str, baseline: Score, vista: Score) -> Paired:
    """Pair the questions of two runs for a metric, a key of their entries.

    Raises:
        NotPaired: questions are missing in one arm, or no known aggregation gives the reported numbers.
    """
    before, after = baseline.questions, vista.questions
    if before is None or after is None:
        raise NotPaired("the questions were not logged, so there is no interval")
    shared = join_questions(before, after)
    if len(shared) < max(len(before), len(after)):
        raise NotPaired(
            f"{len(before)} questions are logged for the baseline, {len(after)} with VISTA, {len(shared)} in both"
        )
    entries = [[arm[name].entries.get(metric) for name in shared] for arm in (before, after)]
    # MME's two metrics share a file: a question has the entry of one of them only.
    asked = [pair for pair in zip(*entries, strict=True) if None not in pair]
    reported = (baseline.value, vista.value)
    for aggregation in _AGGREGATIONS if asked else ():
        try:
            paired = aggregation.pair(*zip(*asked, strict=True))
        except (KeyError, TypeError, ValueError):
            continue
        both = zip(paired.scores(), reported, strict=True)
        if all(math.isclose(found, said, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) for found, said in both):
            return paired
    raise NotPaired(
        "no known way of aggregating the logged questions gives the reported numbers, so there is no interval"
    )
