"""Means of ragged curves and of ratios, with bootstrap intervals over samples.

Tokens of a sample depend on each other, so whole samples are resampled, never tokens. N samples, T positions, R
resamples; all float64 on the CPU. This is torch and not ``kit/statistics.py``, because a host's training environment,
in which a checkpoint has to be probed, need not have scipy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

CONFIDENCE = 0.95


def number(value: float) -> float | None:
    """Return a float for JSON, which has no NaN: None is "undefined"."""
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Estimate:
    """A value with its interval over n samples; NaN where undefined (no sample, or an interval of one sample)."""

    value: float
    low: float
    high: float
    n: int

    def record(self) -> dict[str, Any]:
        """Return plain values for the JSON."""
        bounds = {name: number(getattr(self, name)) for name in ("value", "low", "high")}
        return {**bounds, "n": self.n, "confidence": CONFIDENCE}


@dataclass(frozen=True)
class Curve:
    """A mean over samples at each position, with a pointwise band: (T,) float64 each, NaN where undefined.

    n (T,) int64: the samples that have a value at that position.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    n: Tensor

    def record(self) -> dict[str, Any]:
        """Return plain values for the JSON; ``x`` counts positions (or layers) from 1."""
        values = {name: [number(v) for v in getattr(self, name).tolist()] for name in ("mean", "low", "high")}
        return {"x": list(range(1, 1 + len(self.n))), **values, "n": self.n.tolist(), "confidence": CONFIDENCE}


def stack(curves: Sequence[Tensor]) -> Tensor:
    """Return N curves (t_i,) of different lengths as (N, T) float64, NaN where a sample has no value."""
    return pad_sequence([curve.double() for curve in curves], batch_first=True, padding_value=torch.nan)


def percentile_interval(resampled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the central 95% of (R, ...) resampled values. NaN is left out: a resample may miss every sample."""
    tail = (1 - CONFIDENCE) / 2
    low, high = torch.nanquantile(resampled, torch.tensor([tail, 1 - tail], dtype=resampled.dtype), dim=0)
    return low, high


class Bootstrap:
    """Resampling of N samples, drawn once by ``seed``, so that everything estimated from them shares the draws."""

    def __init__(self, samples: int, resamples: int, seed: int) -> None:
        drawn = torch.randint(max(1, samples), (resamples, samples), generator=torch.Generator().manual_seed(seed))
        # (R, N) how often each sample is in each resample
        self.counts = torch.zeros(resamples, samples, dtype=torch.float64)
        self.counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))

    def curve(self, values: Tensor) -> Curve:
        """Return mean and band at each position of values (N, T), NaN where missing."""
        present = values.isfinite()
        sums, n = values.nan_to_num().masked_fill(~present, 0), present.sum(dim=0)
        bounds = percentile_interval((self.counts @ sums) / (self.counts @ present.double()))
        low, high = (bound.masked_fill(n < 2, torch.nan) for bound in bounds)  # one sample has no interval
        return Curve(sums.sum(dim=0) / n, low, high, n)  # 0/0 is NaN: undefined

    def ratio(self, numerators: Tensor, denominators: Tensor) -> Estimate:
        """Return sum(numerators) / sum(denominators), (N,) each: a token mean, or a slope within samples.

        A sample with denominator 0 takes no part.
        """
        n = int((denominators != 0).sum())
        bounds = percentile_interval((self.counts @ numerators) / (self.counts @ denominators))
        low, high = (bound.item() if n > 1 else math.nan for bound in bounds)
        return Estimate((numerators.sum() / denominators.sum()).item(), low, high, n)


def slope_sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return Sxy (N,) and Sxx (N,) of values (N, T), NaN where missing: their ratio is the slope over position.

    S is about each sample's own means, so that a difference between long and short samples is no slope.
    """
    present = values.isfinite()
    y = values.nan_to_num().masked_fill(~present, 0)
    x = torch.arange(1, values.shape[1] + 1, dtype=torch.float64).expand_as(y) * present
    count = present.sum(dim=1, keepdim=True).clamp(min=1)
    dx = (x - x.sum(dim=1, keepdim=True) / count) * present
    return (dx * y).sum(dim=1), dx.square().sum(dim=1)  # dx sums to 0, so y's own mean drops out
