"""One line of a table: a number of the baseline and of another arm, the change, and how certain it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ..kit.evaluation_scores import ScoreKey

if TYPE_CHECKING:
    from ..kit.statistics import Paired

#: A change is significant below this p.
LEVEL = 0.05
SEEDS, QUESTIONS = "seeds", "questions"


@dataclass(eq=False)
class ScoreRow:
    """A number of the baseline and of ``arm``, one value per run, in ``unit``."""

    harness: str
    task: str
    metric: str
    unit: str
    baseline: list[float]
    vista: list[float]
    higher_is_better: bool | None
    questions: int | None = None  # how many the number is computed from
    main: bool = True
    published: Mapping[str, Any] | None = None  # in the same unit
    interval_95: tuple[float, float] | None = None  # of the change; None when nothing is known about its noise
    p: float | None = None
    p_holm: float | None = None  # adjusted for the number of tests, over all arms
    test: str | None = None
    #: What interval and test account for: other questions that might have been asked of these two models, or other
    #: seeds that might have been trained.
    noise: str | None = None
    notes: list[str] = field(default_factory=list)
    paired: Paired | None = field(default=None, repr=False)  # the questions, with their score in ``unit``
    arm: str = "VISTA"

    @property
    def key(self) -> ScoreKey:
        """Which number it is, of any arm."""
        return ScoreKey(self.harness, self.task, self.metric)

    @property
    def change(self) -> float:
        """VISTA - baseline, of the means over runs."""
        return fmean(self.vista) - fmean(self.baseline)

    @property
    def relative_change(self) -> float | None:
        """The change as a fraction of the baseline."""
        base = fmean(self.baseline)
        return self.change / abs(base) if base else None

    @property
    def better(self) -> bool | None:
        """Whether VISTA's number is the better one; None when equal, or when the direction is not known."""
        if self.higher_is_better is None or self.change == 0:
            return None
        return (self.change > 0) == self.higher_is_better

    @property
    def is_significant(self) -> bool | None:
        """Whether the adjusted p is below `LEVEL` and the interval is on one side of 0; None without a test."""
        if self.p is None or self.interval_95 is None:
            return None
        adjusted = self.p if self.p_holm is None else self.p_holm
        return adjusted < LEVEL and not self.interval_95[0] <= 0 <= self.interval_95[1]

    @property
    def verdict(self) -> str:
        """The outcome in words, for tables."""
        if self.paired is not None and self.paired.is_unchanged():
            return "no question differs"  # which says little of other questions when there are few
        if not self.is_significant:
            return "n/a" if self.is_significant is None else "not significant"
        return {True: "better", False: "worse", None: "higher" if self.change > 0 else "lower"}[self.better]

    def test_seeds(self, pairing: str | None) -> None:
        """Fill in interval and test from the spread between seeds, if each arm has several; see `pair_by_seed`."""
        if min(len(self.baseline), len(self.vista)) < 2:
            return
        from ..kit.statistics import paired_t, welch_t

        if pairing is None:
            result = welch_t(self.baseline, self.vista)
        else:
            result = paired_t([after - before for before, after in zip(self.baseline, self.vista, strict=True)])
        self.test = f"{result.name} over seeds{pairing or ''}"
        if result.low == result.high:  # scores of few questions, or of few digits: t would be infinite
            self.notes.append("the seeds show no spread, so the noise between seeds is not known.")
        else:
            self.interval_95, self.p, self.noise = (result.low, result.high), result.p, SEEDS

    def test_questions(self, paired: Paired) -> None:
        """Fill in interval and test from the questions, whose score is in the row's unit."""
        from ..kit.statistics import bootstrap_interval, paired_test

        self.paired, self.noise = paired, QUESTIONS
        low, high = bootstrap_interval(paired)
        self.interval_95 = None if math.isnan(low) else (low, high)
        self.p, self.test = paired_test(paired)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the JSON report."""
        stored = [item.name for item in fields(self) if item.name != "paired"]
        values = {name: getattr(self, name) for name in (*stored, "change", "relative_change", "better", "verdict")}
        for arm in ("baseline", "vista"):
            runs = values[arm]
            values[arm] = {"mean": fmean(runs), "sd": stdev(runs) if len(runs) > 1 else None, "values": runs}
        return values


def adjust(rows: Sequence[ScoreRow]) -> None:
    """Adjust the p values of a family of tests, those of the rows, for their number (Holm)."""
    tested = {row: row.p for row in rows if row.p is not None}
    if tested:
        from ..kit.statistics import holm

        for row, adjusted in zip(tested, holm(list(tested.values())), strict=True):
            row.p_holm = adjusted


def pair_by_seed(baseline: Sequence[Any], vista: Sequence[Any]) -> tuple[list[Any], str | None]:
    """Put the runs of the second arm (with a ``seed`` each) into the order of the first one's seeds.

    Returns:
        The runs, and how they are paired, as an addition to the test's name. None when they cannot be paired: their
        recorded seeds or their numbers differ. Where a seed is not recorded, they are paired as they were named.
    """
    seeds, waiting = [run.seed for run in baseline], list(vista)
    others = [run.seed for run in vista]
    if None in (*seeds, *others):
        return waiting, ", in the order named" if len(baseline) == len(vista) else None
    if Counter(seeds) != Counter(others):
        return waiting, None
    return [waiting.pop(next(i for i, run in enumerate(waiting) if run.seed == seed)) for seed in seeds], ""
