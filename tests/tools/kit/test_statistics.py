"""The comparison's statistics against scipy, statsmodels, known values and literal loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

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


@pytest.mark.parametrize("seed", range(8))
def test_random_data_give_what_statsmodels_and_scipy_give(seed: int) -> None:
    """Student's and Welch's t, McNemar and Holm by statsmodels; bootstrap and permutation by scipy."""
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=int(rng.integers(3, 9))), rng.normal(0.3, 2, size=int(rng.integers(3, 9)))
    differences = rng.normal(0.4, 1, size=len(before))
    ours, theirs = paired_t(differences), DescrStatsW(differences)
    assert (ours.low, ours.high) == pytest.approx(theirs.tconfint_mean())
    assert (ours.mean, ours.p) == pytest.approx((theirs.mean, theirs.ttest_mean()[1]))
    ours, arms = welch_t(before, after), CompareMeans.from_data(after, before)
    assert (ours.low, ours.high) == pytest.approx(arms.tconfint_diff(usevar="unequal"))
    assert ours.p == pytest.approx(arms.ttest_ind(usevar="unequal")[1])

    right = rng.integers(2, size=(2, 200)).astype(float)
    right[1, :120] = right[0, :120]
    table = [[int(((right[0] == a) & (right[1] == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    p, name = paired_test(mean_of(*right))
    assert name == "McNemar" and p == pytest.approx(mcnemar(table, exact=True).pvalue)
    low, high = bootstrap_interval(mean_of(*right))
    theirs = stats.bootstrap((right[1] - right[0],), np.mean, method="percentile", random_state=seed)
    assert (low, high) == pytest.approx(theirs.confidence_interval, abs=0.011)

    graded = rng.choice([0.0, 0.3, 0.6, 1.0], size=(2, 60))
    theirs = stats.permutation_test(graded[::-1], lambda a, b, axis: (a - b).mean(axis), permutation_type="samples",
                                    vectorized=True, random_state=seed)  # fmt: skip
    assert permutation_test(mean_of(*graded)) == pytest.approx(theirs.pvalue, abs=0.02)

    p_values = rng.uniform(0, 0.2, size=12)
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_values_without_spread_or_without_a_second_one() -> None:
    for single in (paired_t([1.0]), welch_t([1.0, 2.0], [2.0])):
        assert math.isnan(single.p) and math.isnan(single.low)  # nothing is known about the noise
    assert paired_t([0.0, 0.0]).p == 1.0
    rounded = paired_t([0.3 - 0.1, 0.4 - 0.2, 0.5 - 0.3])  # equal but for rounding
    assert rounded.p == 0.0 and rounded.low == rounded.high == pytest.approx(0.2)
    assert welch_t([1.0, 1.0], [2.0, 2.5]).mean == pytest.approx(1.25)  # one arm without spread


def test_bootstrap_keeps_strata() -> None:
    """Differences that are constant within each stratum leave nothing to chance; their sum is weighted."""
    strata = [np.array([[[0.0], [1.0]]] * 5), np.array([[[2.0], [5.0]]] * 7)]
    paired = Paired(strata, [1.0, 0.5])
    assert paired.scores() == (1.0, 3.5)
    assert bootstrap_interval(paired) == pytest.approx((2.5, 2.5)) == bootstrap_interval(paired)  # the same every time


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
