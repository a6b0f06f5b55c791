"""From results to numbers: paired differences over seeds, their intervals and tests, corrected for the number of arms.

A unit is a seed: its arms share data and starting weights, so what is tested is the difference within seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from settings import Run, read_run

from llava_vista.tools.kit.statistics import holm

Result = dict[str, Any]
#: Two-sided 95% of Student's t by degrees of freedom.
_T = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Measure:
    """A number of a result. ``better`` is +1 where more is better, -1 where less is, 0 where neither."""

    key: str
    title: str
    read: Callable[[Result], float]
    better: int
    digits: int = 3


def _at(*keys: str) -> Callable[[Result], float]:
    def read(result: Result) -> float:
        value: Any = result["measures"]
        for key in keys:
            value = value[key]
        return math.nan if value is None else float(value)

    return read


def _slope(*keys: str) -> Callable[[Result], float]:
    return lambda result: 100 * _at(*keys, "value")(result)


def _color_slope(result: Result) -> float:
    return 10 * _at("breaking", "captions", "color_slope", "value")(result)


MEASURES = (
    Measure("color_nll", "NLL of colours in captions, prior-breaking", _at("breaking", "captions", "color_nll"), -1),
    Measure(
        "color_accuracy", "right colours in captions, prior-breaking", _at("breaking", "captions", "color_accuracy"), 1
    ),
    Measure(
        "information", "visual information of colours, prior-breaking", _at("breaking", "captions", "information"), 1
    ),
    Measure(
        "slope",
        "slope of visual information (shapes too), nats per 100 tokens",
        _slope("breaking", "captions", "information_slope"),
        0,
    ),
    Measure("color_slope", "slope of log p of these colours, nats per 10 objects", _color_slope, 0),
    Measure("question_nll", "NLL of answers to questions, prior-breaking", _at("breaking", "questions", "nll"), -1),
    Measure("accuracy", "right answers to questions, prior-breaking", _at("breaking", "questions", "accuracy"), 1),
    Measure("plain_nll", "NLL of captions, plain held-out scenes", _at("plain", "captions", "nll"), -1),
    Measure("plain_accuracy", "right answers to questions, plain", _at("plain", "questions", "accuracy"), 1),
    Measure("text_nll", "NLL of text alone", _at("text_nll"), -1),
)
BY_KEY = {measure.key: measure for measure in MEASURES}


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline over paired seeds: mean, 95% interval (t), p of the paired t test, and Holm's.

    ``baseline`` is the baseline's own mean over these seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    baseline: float
    corrected: float = math.nan


def load(folder: Path) -> list[Result]:
    """All results under a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]


def by_run(results: Sequence[Result]) -> dict[Run, Result]:
    return {read_run(result["run"]): result for result in results}


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with its 95% interval by Student's t; no interval from fewer than two values."""
    array = np.array(values, dtype=float)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return mean, math.nan, math.nan
    half = _quantile(n - 1) * float(array.std(ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


def _quantile(freedom: int) -> float:
    return _T[freedom] if freedom < len(_T) else 1.96 + 2.5 / freedom


def t_test(values: Sequence[float]) -> float:
    """Two-sided p of the one-sample t test that the mean is 0."""
    array = np.array(values, dtype=float)
    n = len(array)
    if n < 2:
        return math.nan
    spread = float(array.std(ddof=1))
    if spread == 0:
        return 1.0 if float(array.mean()) == 0 else 0.0
    return _student(abs(float(array.mean())) / (spread / math.sqrt(n)), n - 1)


def _student(t: float, freedom: int) -> float:
    """P(|T| > t): the density integrated by Simpson's rule, after a substitution that makes the range finite."""
    log_norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    angles = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 2001)
    # x = sqrt(v) tan(a): density(x) dx = norm * sqrt(v) * cos(a)^(v-1) da
    heights = np.cos(angles) ** (freedom - 1)
    weights = np.ones(2001)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    area = float((weights * heights).sum()) * (angles[1] - angles[0]) / 3
    return float(min(1.0, 2 * math.exp(log_norm) * math.sqrt(freedom) * area))


def difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Of paired values, in the same order of seeds."""
    deltas = [a - b for a, b in zip(arm, baseline, strict=True)]
    mean, low, high = mean_and_interval(deltas)
    return Difference(mean, low, high, t_test(deltas), len(deltas), sum(baseline) / len(baseline))


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """With Holm's p over these (the arms of one measure)."""
    tested = [d for d in differences if not math.isnan(d.p)]
    adjusted = dict(zip(map(id, tested), holm([d.p for d in tested]), strict=True))
    return [replace(d, corrected=adjusted.get(id(d), math.nan)) for d in differences]


def steps_to(result: Result, stage: str, level: float) -> float:
    """Steps until the training cross-entropy, averaged over five points of its curve, first falls below a level."""
    curve = np.array(result["log"][stage]["ce"], dtype=float)
    smooth = np.convolve(curve, np.ones(5) / 5, mode="valid")
    below = np.nonzero(smooth <= level)[0]
    return float((below[0] + 5) * result["log_every"]) if len(below) else math.nan
