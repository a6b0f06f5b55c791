"""The comparison's statistics against known values and literal loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from llava_vista.tools.compare.stats import (
    Paired,
    bootstrap_interval,
    holm,
    mcnemar_exact,
    mean_of,
    paired_test,
    permutation_test,
)
from llava_vista.tools.compare.student import critical_value, incomplete_beta, seed_test, two_sided_p

pytestmark = pytest.mark.environments("latest")


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
def test_student_t_is_the_table_s(freedom: int, critical: float) -> None:
    assert critical_value(freedom) == pytest.approx(critical, rel=1e-5)
    assert two_sided_p(critical, freedom) == pytest.approx(0.05, rel=1e-4)
    assert two_sided_p(-critical, freedom) == two_sided_p(critical, freedom)


def test_incomplete_beta_in_closed_form() -> None:
    for x in (0.01, 0.3, 0.5, 0.9):
        assert incomplete_beta(1, 1, x) == pytest.approx(x)
        assert incomplete_beta(2, 3, x) == pytest.approx(6 * x**2 - 8 * x**3 + 3 * x**4)
    assert two_sided_p(1.0, 1) == pytest.approx(0.5)  # Cauchy
    assert two_sided_p(2.0, 2) == pytest.approx(1 - 2 / math.sqrt(6))


def test_paired_t_over_seeds_by_hand() -> None:
    result = seed_test([10.0, 12.0, 11.0], [11.0, 13.5, 11.5])
    assert result is not None
    # changes 1, 1.5, 0.5: mean 1, sd 0.5, t = 1 / (0.5 / sqrt 3)
    assert result.difference == pytest.approx(1.0)
    assert result.p == pytest.approx(two_sided_p(2 * math.sqrt(3), 2))
    assert result.low == pytest.approx(1 - 4.30265 * 0.5 / math.sqrt(3), rel=1e-4)
    assert "paired" in result.name


def test_unequal_numbers_of_seeds_take_welch() -> None:
    result = seed_test([10.0, 12.0, 11.0, 9.0], [13.0, 14.0])
    assert result is not None and "Welch" in result.name
    # variances 5/3 and 1/2: error^2 = 5/12 + 1/4 = 2/3; freedom by Welch-Satterthwaite
    error, freedom = math.sqrt(2 / 3), (2 / 3) ** 2 / ((5 / 12) ** 2 / 3 + (1 / 4) ** 2 / 1)
    assert result.p == pytest.approx(two_sided_p(3.0 / error, freedom))


def test_one_run_tells_nothing_about_seeds() -> None:
    assert seed_test([1.0], [2.0]) is None
    assert seed_test([1.0, 2.0], [2.0]) is None
    same = seed_test([1.0, 1.0], [1.0, 1.0])
    assert same is not None and same.p == 1.0


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
    assert not paired.binary()


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
