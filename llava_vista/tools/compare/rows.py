"""One line of a table: a number of both arms, their change, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from .stats import Paired, bootstrap_interval, paired_test
from .student import seed_test

#: The chance of a false alarm that "stands out" accepts.
LEVEL = 0.05
SEEDS, QUESTIONS = "seeds", "questions"


@dataclass
class Row:
    """A number of both arms, one value per run, in ``unit``.

    Attributes:
        interval: 95% interval of the change; None when nothing tells its noise.
        p: of the test named ``test``; Holm-adjusted for the number of tests in ``p_holm``.
        noise: what interval and test account for: ``questions`` (other questions might have been asked; both models
            are taken as they are) or ``seeds`` (other seeds might have been trained).
        published: the released numbers for this task, in the same unit.
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
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    test: str | None = None
    noise: str | None = None
    published: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    #: the questions behind the number, in ``unit``
    paired: Paired | None = field(default=None, repr=False)

    @property
    def change(self) -> float:
        """VISTA - baseline, of the means over runs."""
        return fmean(self.vista) - fmean(self.baseline)

    @property
    def relative(self) -> float | None:
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
    def stands_out(self) -> bool | None:
        """Whether the change is larger than the noise (before any adjustment); None when the noise is not known."""
        return None if self.p is None else self.p < LEVEL

    @property
    def verdict(self) -> str:
        """In words, for tables."""
        if self.change == 0:
            return "equal"
        if self.stands_out is None:
            return "noise not known"
        if not self.stands_out:
            return "within noise"
        return {True: "better", False: "worse", None: "higher" if self.change > 0 else "lower"}[self.better]

    def use_seeds(self) -> None:
        """Fill in interval and test from the spread between seeds, when there are several."""
        result = seed_test(self.baseline, self.vista)
        if result is not None:
            self.interval, self.p, self.test, self.noise = (result.low, result.high), result.p, result.name, SEEDS

    def use_questions(self, paired: Paired, scale: float) -> None:
        """Fill in interval and test from the questions; ``scale`` takes their scores to the row's unit."""
        self.paired = Paired(paired.strata, [scale * weight for weight in paired.weights], paired.reduce)
        self.interval, self.noise = bootstrap_interval(self.paired), QUESTIONS
        self.p, self.test = paired_test(paired)

    def to_dict(self) -> dict[str, Any]:
        return {
            "harness": self.harness,
            "task": self.task,
            "metric": self.metric,
            "unit": self.unit,
            "main": self.main,
            "higher_is_better": self.higher_is_better,
            "questions": self.questions,
            "baseline": summary(self.baseline),
            "vista": summary(self.vista),
            "change": self.change,
            "relative_change": self.relative,
            "better": self.better,
            "interval_95": self.interval,
            "p": self.p,
            "p_holm": self.p_holm,
            "test": self.test,
            "noise": self.noise,
            "verdict": self.verdict,
            "published": self.published,
            "notes": self.notes,
        }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, spread (sample standard deviation over runs) and every run's value."""
    return {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else None, "values": list(values)}
