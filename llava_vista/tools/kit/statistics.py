"""Intervals and tests of paired comparisons, over training seeds and over evaluated questions.

scipy has t, Welch and the binomial test. Bootstrap and permutation are here because scipy's resample every unit: with
equal units drawn together (a multinomial draw over the distinct ones, a binomial draw for swapped arms), 200,000
questions cost as much as their few distinct outcomes. Importing this module needs the extra ``compare``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    values = np.asarray(differences, dtype=np.float64)
    return _t_test(float(values.mean()), [values], lambda: stats.ttest_1samp(values, 0.0), "paired t over seeds")


def welch_t(baseline: Sequence[float], changed: Sequence[float]) -> TTest:
    """Test whether two arms of unpaired values have the same mean; the mean is ``changed - baseline``."""
    before, after = np.asarray(baseline, dtype=np.float64), np.asarray(changed, dtype=np.float64)
    mean = float(after.mean() - before.mean())
    return _t_test(
        mean, [before, after], lambda: stats.ttest_ind(after, before, equal_var=False), "Welch's t over seeds"
    )


def _t_test(mean: float, samples: Sequence[Array], test: Callable[[], Any], name: str) -> TTest:
    if min(map(len, samples)) < 2:
        return TTest(mean, math.nan, math.nan, math.nan, name)
    # Without any spread t is 0/0 or x/0. Rounding of equal values counts as none.
    if all(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in samples):
        return TTest(mean, mean, mean, 1.0 if mean == 0 else 0.0, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns of one arm of Welch's test without spread
        result = test()
    interval = result.confidence_interval(CONFIDENCE)
    return TTest(mean, float(interval.low), float(interval.high), float(result.pvalue), name)


def seed_test(baseline: Sequence[float], changed: Sequence[float]) -> TTest | None:
    """Paired t over seeds when both arms have equally many runs (paired in order), else Welch's t.

    Returns:
        None when an arm has a single run: then nothing is known about the noise between seeds.
    """
    if min(len(baseline), len(changed)) < 2:
        return None
    if len(baseline) == len(changed):
        return paired_t([after - before for before, after in zip(baseline, changed, strict=True)])
    return welch_t(baseline, changed)


def identity(features: Array) -> Array:
    """(..., 1) -> (...): the mean itself."""
    return features[..., 0]


@dataclass(frozen=True)
class Paired:
    """Two arms on the same units, such as questions.

    The score of an arm is ``sum_s weight_s * reduce(mean over the units of stratum s)``, which covers a plain mean, MME
    (a sum over categories of means over images) and F1 alike.

    Attributes:
        strata: one array (n, 2, k) per stratum: n units, baseline and changed arm, k features per unit.
        weights: one factor per stratum.
        reduce: (..., k) -> (...), of a stratum's mean features.
    """

    strata: Sequence[Array]
    weights: Sequence[float]
    reduce: Callable[[Array], Array] = identity

    @property
    def units(self) -> int:
        return sum(len(stratum) for stratum in self.strata)

    def scores(self) -> tuple[float, float]:
        """Return the scores of the baseline and of the changed arm."""
        means = zip(self.strata, self.weights, strict=True)
        parts = [weight * self.reduce(stratum.mean(axis=0)) for stratum, weight in means]
        before, after = np.sum(parts, axis=0)
        return float(before), float(after)

    def is_binary(self) -> bool:
        """Return whether every unit is right or wrong: one stratum, one feature, only 0 and 1."""
        return (
            self.reduce is identity
            and len(self.strata) == 1
            and self.strata[0].shape[-1] == 1
            and bool(np.isin(self.strata[0], (0.0, 1.0)).all())
        )


def mean_of(baseline: Sequence[float], changed: Sequence[float]) -> Paired:
    """Return the `Paired` of a plain mean over questions."""
    return Paired([np.stack([baseline, changed], axis=1).astype(np.float64)[..., None]], [1.0])


def bootstrap_interval(paired: Paired, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95% percentile interval of the difference, units resampled in pairs within their strata."""
    generator = np.random.default_rng(0)

    def draw(rows: Array, counts: Array, size: int) -> Array:
        return _sums(generator.multinomial(counts.sum(), counts / counts.sum(), size=size), rows)

    return percentile_interval(_differences(paired, draw, resamples))


def percentile_interval(resampled: Sequence[float] | Array) -> tuple[float, float]:
    """Return the central 95% of resampled values; NaN is left out."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def permutation_test(paired: Paired, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p of the difference when each unit's arms are swapped at random (Monte Carlo).

    Never 0: the observed labelling counts as one of the draws.
    """
    generator = np.random.default_rng(0)

    def draw(rows: Array, counts: Array, size: int) -> Array:
        swapped = generator.binomial(counts, 0.5, size=(size, len(rows)))
        return _sums(counts - swapped, rows) + _sums(swapped, rows[:, ::-1])

    before, after = paired.scores()
    differences = np.abs(_differences(paired, draw, resamples))
    # A difference that equals the observed one up to rounding is as extreme as it.
    as_extreme = int((differences >= abs(after - before) - 1e-12 * max(1.0, abs(after))).sum())
    return (as_extreme + 1) / (resamples + 1)


def _sums(times: Array, rows: Array) -> Array:
    """(c, u) counts of u distinct rows (u, 2, k) to (c, 2, k) sums."""
    sums: Array = np.tensordot(times.astype(np.float64), rows, axes=1)
    return sums


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
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
