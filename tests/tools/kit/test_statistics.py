"""The comparison's statistics against known values and literal loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from llava_vista.tools.kit.statistics import (
    Paired,
    bootstrap_interval,
    holm,
    mcnemar_exact,
    paired_t,
    paired_test,
    permutation_test,
    welch_t,
)

pytestmark = pytest.mark.environments("latest")


def mean_of(baseline: list[float], changed: list[float]) -> Paired:
    """A plain mean over questions."""
    return Paired([np.stack([baseline, changed], axis=1)[..., None]], [1.0])


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(1, 9, 22 / 1024), (0, 5, 2 / 32), (3, 3, 1.0), (0, 0, 1.0), (15, 5, 0.04138946533203125)],
)
def test_mcnemar_is_the_binomial_sign_test(gained: int, lost: int, p: float) -> None:
    assert mcnemar_exact(gained, lost) == pytest.approx(p, rel=1e-9)
    assert mcnemar_exact(lost, gained) == pytest.approx(p, rel=1e-9)


def test_mcnemar_of_many_questions() -> None:
    total = sum(math.comb(4000, i) for i in range(1901))
    assert mcnemar_exact(1900, 2100) == pytest.approx(2 * total / 2**4000, rel=1e-6)


@pytest.mark.parametrize(
    ("freedom", "critical"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227)]
)
def test_paired_t_is_the_published_table_s(freedom: int, critical: float) -> None:
    """Differences whose t is the tabulated 95% value: p is 0.05 and the interval begins at 0."""
    values = np.arange(freedom + 1.0)
    values = (values - values.mean()) / values.std(ddof=1)  # mean 0, standard deviation 1
    result = paired_t(values + critical / math.sqrt(freedom + 1))
    assert result.p == pytest.approx(0.05, rel=1e-4)
    assert result.low == pytest.approx(0, abs=1e-5)
    assert result.high == pytest.approx(2 * critical / math.sqrt(freedom + 1), rel=1e-5)


def test_paired_t_in_closed_form() -> None:
    """With one degree of freedom t is Cauchy, with two P(|T| > t) = 1 - t / sqrt(2 + t^2)."""
    assert paired_t([0.0, 2.0]).p == pytest.approx(0.5)  # t = 1
    result = paired_t([1.0, 1.5, 0.5])
    # mean 1, sd 0.5, t = 1 / (0.5 / sqrt 3)
    assert result.mean == pytest.approx(1.0) and result.name == "paired t"
    assert result.p == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(2 + 12))
    assert result.low == pytest.approx(1 - 4.30265 * 0.5 / math.sqrt(3), rel=1e-4)


def tail(t: float, freedom: float) -> float:
    """P(|T| > t), integrated from Student's density after the substitution x = sqrt(v) tan(a)."""
    angles = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 200_001)
    log_norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)
    heights = np.cos(angles) ** (freedom - 1)
    area = (heights[1:] + heights[:-1]).sum() * (angles[1] - angles[0]) / 2
    return float(2 * math.exp(log_norm) * area)


def test_welch_t_by_integration() -> None:
    result = welch_t([10.0, 12.0, 11.0, 9.0], [13.0, 14.0])
    assert "Welch" in result.name and result.mean == pytest.approx(3.0)
    # variances 5/3 and 1/2: error^2 = 5/12 + 1/4 = 2/3; freedom by Welch-Satterthwaite
    error, freedom = math.sqrt(2 / 3), (2 / 3) ** 2 / ((5 / 12) ** 2 / 3 + (1 / 4) ** 2 / 1)
    assert result.p == pytest.approx(tail(3 / error, freedom), rel=1e-6)
    assert tail((3 - result.low) / error, freedom) == pytest.approx(0.05, rel=1e-6)
    assert result.high - 3 == pytest.approx(3 - result.low)


def test_values_without_spread_or_without_a_second_one() -> None:
    for single in (paired_t([1.0]), welch_t([1.0, 2.0], [2.0])):
        assert math.isnan(single.p) and math.isnan(single.low)  # nothing is known about the noise
    assert paired_t([0.0, 0.0]).p == 1.0
    rounded = paired_t([0.3 - 0.1, 0.4 - 0.2, 0.5 - 0.3])  # equal but for rounding
    assert rounded.p == 0.0 and rounded.low == rounded.high == pytest.approx(0.2)
    assert welch_t([1.0, 1.0], [2.0, 2.5]).mean == pytest.approx(1.25)  # one arm without spread


def test_bootstrap_is_that_of_a_literal_loop() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.choice([0.0, 0.3, 1.0], size=(2, 60))
    low, high = bootstrap_interval(mean_of(before, after))
    differences = after - before
    draws = [differences[rng.integers(60, size=60)].mean() for _ in range(10_000)]
    expected = np.percentile(draws, [2.5, 97.5])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.012)
    assert bootstrap_interval(mean_of(before, after)) == (low, high)  # the same report every time


def test_bootstrap_keeps_strata() -> None:
    """Differences that are constant within each stratum leave nothing to chance; their sum is weighted."""
    strata = [np.array([[[0.0], [1.0]]] * 5), np.array([[[2.0], [5.0]]] * 7)]
    paired = Paired(strata, [1.0, 0.5])
    assert paired.scores() == (1.0, 3.5)
    assert bootstrap_interval(paired) == pytest.approx((2.5, 2.5))


def test_permutation_test_is_the_exact_one() -> None:
    changes = [0.9, 0.4, -0.1, 0.7, 0.35, 0.2, -0.3, 0.6]
    signs = list(itertools.product((1, -1), repeat=len(changes)))
    observed = abs(sum(changes))
    extreme = sum(abs(sum(s * c for s, c in zip(sign, changes, strict=True))) >= observed - 1e-12 for sign in signs)
    paired = mean_of([0.0] * len(changes), changes)
    assert permutation_test(paired) == pytest.approx(extreme / len(signs), abs=0.01)
    assert not paired.is_binary()


def test_permutation_test_of_a_ratio() -> None:
    """F1-like: arms swapped unit by unit, the ratio recomputed each time."""
    rng = np.random.default_rng(2)
    rows = rng.integers(2, size=(40, 2, 2)).astype(float)

    def reduce(x: np.ndarray) -> np.ndarray:
        return x[..., 0] / (x[..., 0] + x[..., 1] + 1e-9)

    paired = Paired([rows], [1.0], reduce)
    baseline, vista = paired.scores()
    draws = []
    for _ in range(4000):
        swap = rng.integers(2, size=40).astype(bool)
        arms = np.where(swap[:, None, None], rows[:, ::-1], rows).mean(axis=0)
        a, b = reduce(arms)
        draws.append(abs(b - a))
    expected = np.mean(np.array(draws) >= abs(vista - baseline) - 1e-12)
    assert permutation_test(paired) == pytest.approx(expected, abs=0.03)


def test_right_or_wrong_scores_take_mcnemar() -> None:
    p, name = paired_test(mean_of([1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1]))
    assert name == "McNemar" and p == pytest.approx(mcnemar_exact(5, 1))
    assert paired_test(mean_of([0.5, 1, 0], [1, 1, 0]))[1] == "permutation"


def test_tests_hold_their_level() -> None:
    """Under no difference about one p in twenty is below 0.05, and intervals cover 0 nineteen times in twenty."""
    rng = np.random.default_rng(0)
    alarms = covered = 0
    for _ in range(120):
        before, after = rng.normal(size=(2, 40))
        paired = mean_of(before, after)
        alarms += permutation_test(paired, 400) < 0.05
        low, high = bootstrap_interval(paired, 400)
        covered += low <= 0 <= high
    assert alarms <= 15
    assert covered >= 100


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
