"""One line of a table: a number of both arms, their change, and how certain it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..kit.statistics import Paired

#: A change is significant below this p.
LEVEL = 0.05
SEEDS, QUESTIONS = "seeds", "questions"
_IN_JSON = (
    *("harness", "task", "metric", "unit", "main", "higher_is_better", "questions", "baseline", "vista", "change"),
    *("relative_change", "better", "interval_95", "p", "p_holm", "test", "noise", "verdict", "published", "notes"),
)


@dataclass
class ScoreRow:
    """A number of both arms, one value per run, in ``unit``.

    Attributes:
        questions: how many the number is computed from.
        interval_95: of the change; None when nothing is known about its noise.
        p: of the test named ``test``; Holm-adjusted for the number of tests in ``p_holm``.
        noise: what interval and test account for: ``questions`` (other questions might have been asked; both models
            are taken as they are) or ``seeds`` (other seeds might have been trained).
        published: the released numbers for this task, in the same unit.
        paired: the questions behind the number, in ``unit``.
    """

    harness: str
    task: str
    metric: str
    unit: str
    baseline: list[float]
    vista: list[float]
    higher_is_better: bool | None
    questions: int | None = None
    main: bool = True
    published: Mapping[str, Any] | None = None
    interval_95: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    test: str | None = None
    noise: str | None = None
    notes: list[str] = field(default_factory=list)
    paired: Paired | None = field(default=None, repr=False)

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
        """Whether p is below `LEVEL` (before any adjustment); None without a test."""
        return None if self.p is None else self.p < LEVEL

    @property
    def verdict(self) -> str:
        """The outcome in words, for tables."""
        if self.change == 0:
            return "equal"
        if self.p is None:
            return "n/a"
        if not self.is_significant:
            return "not significant"
        return {True: "better", False: "worse", None: "higher" if self.change > 0 else "lower"}[self.better]

    def test_seeds(self) -> None:
        """Fill in interval and test from the spread between seeds, if each arm has several."""
        if min(len(self.baseline), len(self.vista)) < 2:
            return
        from ..kit.statistics import seed_test

        result = seed_test(self.baseline, self.vista)
        self.interval_95, self.p, self.test, self.noise = (result.low, result.high), result.p, result.name, SEEDS

    def test_questions(self, paired: Paired) -> None:
        """Fill in interval and test from the questions, whose score is in the row's unit."""
        from ..kit.statistics import bootstrap_interval, paired_test

        self.paired, self.noise = paired, QUESTIONS
        self.interval_95 = bootstrap_interval(paired)
        self.p, self.test = paired_test(paired)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the JSON report."""
        values = {name: getattr(self, name) for name in _IN_JSON}
        return values | {"baseline": _summary(self.baseline), "vista": _summary(self.vista)}


def _summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, spread (sample standard deviation over runs) and every run's value."""
    return {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else None, "values": list(values)}
