"""Intervals and tests of paired comparisons, over training seeds and over evaluated questions.

scipy has t, Welch and the binomial test. Its bootstrap and permutation test resample every unit; here equal units are
drawn together (a multinomial draw over the distinct ones, a binomial draw for swapped arms), so that 200,000 questions
cost as much as their few distinct outcomes. Importing this module needs the extra ``compare``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .extras import requires_extra

with requires_extra("compare"):
    import numpy as np
    from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

CONFIDENCE = 0.95
RESAMPLES = 10_000
#: Random numbers drawn at a time, to bound memory (float64: 64 MB).
_CHUNK = 8_000_000


@dataclass(frozen=True)
class TTest:
    """A mean, or a difference of means, with its 95% interval, two-sided p, and the test's name."""

    mean: float
    low: float
    high: float
    p: float
    name: str


def paired_t(differences: Sequence[float]) -> TTest:
    """Test whether the mean of paired differences is 0. Interval and p are NaN for fewer than two of them."""
    return _t_test("paired t", np.mean(differences), partial(stats.ttest_1samp, popmean=0), differences)


def welch_t(baseline: Sequence[float], changed: Sequence[float]) -> TTest:
    """Test ``changed - baseline`` of unpaired values. Interval and p are NaN where an arm has a single one."""
    mean = np.mean(changed) - np.mean(baseline)
    return _t_test("Welch's t", mean, partial(stats.ttest_ind, equal_var=False), changed, baseline)


def _t_test(name: str, mean: Any, test: Callable[..., Any], *samples: Sequence[float]) -> TTest:
    if min(map(len, samples)) < 2:
        low = high = p = math.nan
    # Without any spread t is 0/0 or x/0. Rounding of equal values counts as none.
    elif all(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in samples):
        low, high, p = mean, mean, float(mean == 0)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns of one arm of Welch's test without spread
            result = test(*samples)
        (low, high), p = result.confidence_interval(CONFIDENCE), result.pvalue
    return TTest(float(mean), float(low), float(high), float(p), name)


class Paired:
    """Two arms on the same units, such as questions, in strata (n, 2, k): n units, both arms, k features per unit.

    The score of an arm is ``sum_s weight_s * reduce(mean over the units of stratum s)``, which covers a plain mean, MME
    (a sum over categories of means over images) and F1 alike. ``reduce`` maps (..., k) to (...); None: k is 1.
    """

    def __init__(
        self, strata: Sequence[Any], weights: Sequence[float], reduce: Callable[[Array], Array] | None = None
    ) -> None:
        self.strata: list[Array] = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
        self.weights = list(weights)
        self.reduce = reduce or (lambda features: features[..., 0])
        self.is_mean = reduce is None

    @classmethod
    def mean(cls, pairs: Sequence[Paired]) -> Paired:
        """Return the mean of several scores, each a mean over units of its own."""
        weights = [weight / len(pairs) for pair in pairs for weight in pair.weights]
        return cls([stratum for pair in pairs for stratum in pair.strata], weights)

    def scaled(self, factor: float) -> Paired:
        """Return the same pairs with the score multiplied by a factor."""
        return Paired(self.strata, [factor * weight for weight in self.weights], None if self.is_mean else self.reduce)

    def scores(self) -> tuple[float, float]:
        """Return the scores of the baseline and of the changed arm."""
        means = zip(self.strata, self.weights, strict=True)
        before, after = np.sum([weight * self.reduce(stratum.mean(axis=0)) for stratum, weight in means], axis=0)
        return float(before), float(after)

    def is_unchanged(self) -> bool:
        """Return whether every unit has the same features in both arms."""
        return all(np.array_equal(stratum[:, 0], stratum[:, 1]) for stratum in self.strata)

    def is_binary(self) -> bool:
        """Return whether every unit is right or wrong: a mean over one stratum, only 0 and 1."""
        return self.is_mean and len(self.strata) == 1 and bool(np.isin(self.strata[0], (0.0, 1.0)).all())


def bootstrap_interval(paired: Paired, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95% percentile interval of the difference, units resampled in pairs within their strata.

    Units of which none differs leave nothing to resample. For right or wrong answers the interval is then what the
    exact binomial upper bound on the share of units that differ allows, in both directions; else it is unknown (NaN).
    """
    if paired.is_unchanged():
        units = len(paired.strata[0])
        bound = paired.weights[0] * (1 - (1 - CONFIDENCE) ** (1 / units)) if paired.is_binary() else math.nan
        return -bound, bound
    generator = np.random.default_rng(0)

    def draw(rows: Array, counts: Array, size: int) -> Array:
        times = generator.multinomial(counts.sum(), counts / counts.sum(), size=size)
        return np.tensordot(times, rows, axes=1)

    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(_differences(paired, draw, resamples), [tail, 100 - tail])
    return float(low), float(high)


def permutation_test(paired: Paired, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p of the difference when each unit's arms are swapped at random (Monte Carlo).

    Never 0: the observed labelling counts as one of the draws.
    """
    generator = np.random.default_rng(0)

    def draw(rows: Array, counts: Array, size: int) -> Array:
        swapped = generator.binomial(counts, 0.5, size=(size, len(rows)))
        return np.tensordot(counts - swapped, rows, axes=1) + np.tensordot(swapped, rows[:, ::-1], axes=1)

    before, after = paired.scores()
    differences = np.abs(_differences(paired, draw, resamples))
    # A difference that equals the observed one up to rounding is as extreme as it.
    as_extreme = int((differences >= abs(after - before) - 1e-12 * max(1.0, abs(after))).sum())
    return (as_extreme + 1) / (resamples + 1)


def _differences(paired: Paired, draw: Callable[[Array, Array, int], Array], count: int) -> Array:
    """Return ``count`` resampled differences; ``draw`` gives (c, 2, k) sums for distinct rows and their counts."""
    total = np.zeros(count)
    for stratum, weight in zip(paired.strata, paired.weights, strict=True):
        rows, counts = np.unique(stratum, axis=0, return_counts=True)
        step = max(1, _CHUNK // len(rows))
        for start in range(0, count, step):
            size = min(step, count - start)
            reduced = paired.reduce(draw(rows, counts, size) / len(stratum))  # (size, 2)
            total[start : start + size] += weight * (reduced[:, 1] - reduced[:, 0])
    return total


def mcnemar_exact(gained: int, lost: int) -> float:
    """Return the two-sided p of the exact McNemar test: a sign test on what only one of the two arms has right."""
    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


def paired_test(paired: Paired) -> tuple[float, str]:
    """Return p and the test's name: exact McNemar for right or wrong answers, else the permutation test."""
    if paired.is_binary():
        before, after = paired.strata[0][..., 0].T
        return mcnemar_exact(int((after > before).sum()), int((after < before).sum())), "McNemar"
    return permutation_test(paired), "permutation"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number by Holm's method."""
    order = np.argsort(p_values, kind="stable")
    rising = np.arange(len(p_values), 0, -1) * np.asarray(p_values, dtype=np.float64)[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, rising))
    return [float(p) for p in adjusted]
