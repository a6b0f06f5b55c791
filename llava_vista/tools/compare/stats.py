"""The few statistics that a comparison needs, in numpy and the standard library.

Two score vectors of the same questions enter as `Paired`: strata of units, so that one bootstrap and one permutation
test serve a plain mean, MME (a sum over categories of means over images) and F1 alike. Rows that are equal are drawn
together: resampling n units with replacement is a multinomial draw over the distinct ones, and swapping the arms of m
equal units is a binomial draw, so a benchmark of 200,000 questions costs as much as its few distinct outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
#: Random numbers drawn at a time, to bound memory (float64: 64 MB).
_CHUNK = 8_000_000


def identity(features: Array) -> Array:
    """(..., 1) -> (...): the mean itself."""
    return features[..., 0]


@dataclass(frozen=True)
class Paired:
    """Two arms on the same units.

    The score of an arm is ``sum_s weight_s * reduce(mean over the units of stratum s)``.

    Attributes:
        strata: one array (n, 2, k) per stratum: n units, baseline and VISTA, k features per unit.
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
        """(baseline, VISTA)."""
        parts = [
            weight * self.reduce(stratum.mean(axis=0))
            for stratum, weight in zip(self.strata, self.weights, strict=True)
        ]
        total = np.sum(parts, axis=0)
        return float(total[0]), float(total[1])

    def binary(self) -> bool:
        """Whether every unit is right or wrong: one stratum, one feature, only 0 and 1."""
        return (
            self.reduce is identity
            and len(self.strata) == 1
            and self.strata[0].shape[-1] == 1
            and bool(np.isin(self.strata[0], (0.0, 1.0)).all())
        )


def mean_of(baseline: Sequence[float], vista: Sequence[float]) -> Paired:
    """`Paired` for a plain mean over questions."""
    return Paired([np.stack([baseline, vista], axis=1).astype(np.float64)[..., None]], [1.0])


def _sums(times: Array, rows: Array) -> Array:
    """(c, u) counts of u distinct rows (u, 2, k) to (c, 2, k) sums."""
    flat: Array = times @ rows.reshape(len(rows), -1)
    return flat.reshape(-1, *rows.shape[1:])


def _difference(paired: Paired, draw: Callable[[Array, Array, int], Array], count: int) -> Array:
    """``count`` differences VISTA - baseline; ``draw`` gives (c, 2, k) sums for distinct rows and their counts."""
    total = np.zeros(count)
    for stratum, weight in zip(paired.strata, paired.weights, strict=True):
        rows, counts = np.unique(stratum.reshape(len(stratum), -1), axis=0, return_counts=True)
        rows = rows.reshape(-1, *stratum.shape[1:])
        step = max(1, _CHUNK // len(rows))
        for start in range(0, count, step):
            size = min(step, count - start)
            means = draw(rows, counts, size) / len(stratum)  # (size, 2, k)
            reduced = paired.reduce(means)
            total[start : start + size] += weight * (reduced[:, 1] - reduced[:, 0])
    return total


def bootstrap_interval(paired: Paired, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile interval (95%) of the difference VISTA - baseline, units resampled in pairs within strata."""
    generator = np.random.default_rng(0)

    def draw(rows: Array, counts: Array, size: int) -> Array:
        times = generator.multinomial(int(counts.sum()), counts / counts.sum(), size=size)
        return _sums(times.astype(np.float64), rows)

    differences = _difference(paired, draw, resamples)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(differences, [tail, 100 - tail])
    return float(low), float(high)


def permutation_test(paired: Paired, resamples: int = RESAMPLES) -> float:
    """Two-sided p of the difference when the arms' labels of every unit are swapped at random (Monte Carlo).

    Never 0: the observed labelling counts as one of the draws.
    """
    generator = np.random.default_rng(0)

    def draw(rows: Array, counts: Array, size: int) -> Array:
        swapped = generator.binomial(counts.astype(np.int64), 0.5, size=(size, len(rows))).astype(np.float64)
        kept = counts - swapped
        return _sums(kept, rows) + _sums(swapped, rows[:, ::-1])

    baseline, vista = paired.scores()
    differences = np.abs(_difference(paired, draw, resamples))
    # What equals the observed difference up to rounding is as extreme as it.
    as_extreme = int((differences >= abs(vista - baseline) - 1e-12 * max(1.0, abs(vista))).sum())
    return (as_extreme + 1) / (resamples + 1)


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test: a sign test on the questions that only one of the two arms answers rightly.

    2 P(X <= min(gained, lost)) with X ~ Binomial(gained + lost, 1/2), at most 1.
    """
    n, k = gained + lost, min(gained, lost)
    log_half = n * math.log(0.5)
    terms = (
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + log_half) for i in range(k + 1)
    )
    return min(1.0, 2 * math.fsum(terms))


def paired_test(paired: Paired) -> tuple[float, str]:
    """(p, name of the test): exact McNemar for right/wrong scores, else the permutation test."""
    if paired.binary():
        scores = paired.strata[0][..., 0]  # (n, 2)
        gained = int(((scores[:, 1] == 1) & (scores[:, 0] == 0)).sum())
        lost = int(((scores[:, 1] == 0) & (scores[:, 0] == 1)).sum())
        return mcnemar_exact(gained, lost), "McNemar"
    return permutation_test(paired), "permutation"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of p values for the number of tests."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
