"""Student's t: is a difference between arms larger than the noise between seeds?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Lentz's continued fraction of the incomplete beta function; converges fast for x < (a + 1) / (a + b + 2)."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    result = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return result


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # x^a (1-x)^b / B(a, b)
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, 1 - x) / b


def two_sided_p(t: float, freedom: float) -> float:
    """P(|T| >= |t|) for Student's t."""
    if math.isinf(t):
        return 0.0
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def critical_value(freedom: float, confidence: float = 0.95) -> float:
    """The t that |T| exceeds with probability 1 - confidence, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > 1 - confidence else (low, middle)
    return high


@dataclass(frozen=True)
class SeedTest:
    """The mean difference VISTA - baseline, its 95% interval, p, and which test it was."""

    difference: float
    low: float
    high: float
    p: float
    name: str


def _test(difference: float, error: float, freedom: float, name: str) -> SeedTest:
    if error == 0:  # every seed says exactly the same
        return SeedTest(difference, difference, difference, 1.0 if difference == 0 else 0.0, name)
    half = critical_value(freedom) * error
    return SeedTest(difference, difference - half, difference + half, two_sided_p(difference / error, freedom), name)


def seed_test(baseline: Sequence[float], vista: Sequence[float]) -> SeedTest | None:
    """Paired t over seeds when both arms have equally many runs (paired in order), else Welch's t.

    Returns:
        None when an arm has a single run: then nothing is known about the noise between seeds.
    """
    if min(len(baseline), len(vista)) < 2:
        return None
    difference = fmean(vista) - fmean(baseline)
    n = len(baseline)
    if n == len(vista):
        changes = [after - before for before, after in zip(baseline, vista, strict=True)]
        return _test(difference, math.sqrt(variance(changes) / n), n - 1, "paired t over seeds")
    parts = [variance(values) / len(values) for values in (baseline, vista)]
    error = math.sqrt(sum(parts))
    lengths = (len(baseline), len(vista))
    below = sum(part * part / (count - 1) for part, count in zip(parts, lengths, strict=True))
    freedom = sum(parts) ** 2 / below if below else 1.0
    return _test(difference, error, freedom, "Welch's t over seeds")
