"""Means of ragged curves and of ratios, with bootstrap confidence over samples.

A sample is one draw: its tokens depend on each other, so whole samples are resampled, never tokens. N samples,
T positions, R resamples. All float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap interval; NaN where it is not defined (no sample, or an interval of one sample)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Curve:
    """A mean over samples at each position, with a pointwise bootstrap band.

    Args:
        mean, low, high: (T,) float64; NaN where undefined.
        n: (T,) int64, the samples that have a value there.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    n: Tensor


def stack(curves: Sequence[Tensor]) -> Tensor:
    """Per-sample curves of different lengths as one matrix.

    Args:
        curves: N tensors (t_i,); a NaN is a missing value.

    Returns:
        (N, T) float64, NaN where a sample has no value.
    """
    longest = max((len(curve) for curve in curves), default=0)
    values = torch.full((len(curves), longest), torch.nan, dtype=torch.float64)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = curve
    return values


class Bootstrap:
    """Resampling of N samples, drawn once, so that all that is estimated from them shares the draws.

    Args:
        samples: N.
        resamples: R.
        seed: of the draws.
    """

    def __init__(self, samples: int, resamples: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(max(1, samples), (resamples, samples), generator=generator)
        # (R, N) how often each sample is in each resample
        self.counts = torch.zeros(resamples, samples, dtype=torch.float64)
        self.counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))

    def curve(self, values: Tensor) -> Curve:
        """Mean and band at each position.

        Args:
            values: (N, T), NaN where missing.
        """
        present = values.isfinite()
        sums, n = values.nan_to_num().masked_fill(~present, 0), present.sum(dim=0)
        mean = sums.sum(dim=0) / n  # 0/0 is NaN: undefined
        low, high = self._interval((self.counts @ sums) / (self.counts @ present.double()), n)
        return Curve(mean, low, high, n)

    def ratio(self, numerators: Tensor, denominators: Tensor) -> Estimate:
        """sum(numerators) / sum(denominators) over samples: a token mean, or a slope within samples.

        Args:
            numerators, denominators: (N,); a sample with denominator 0 takes no part.
        """
        n = (denominators != 0).sum()
        resampled = (self.counts @ numerators) / (self.counts @ denominators)
        low, high = self._interval(resampled[:, None], n[None])
        value = numerators.sum() / denominators.sum()
        return Estimate(value.item(), low.item(), high.item(), int(n))

    @staticmethod
    def _interval(resampled: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """Percentile interval of (R, T) resampled values; none for fewer than two samples."""
        tail = (1 - CONFIDENCE) / 2
        bounds = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        # A resample can miss every sample that reaches a position: its NaN is left out.
        low, high = torch.nanquantile(resampled, bounds, dim=0).masked_fill(n < 2, torch.nan)
        return low, high


def slope_sums(values: Tensor) -> tuple[Tensor, Tensor]:
    """What the slope over position, common to all samples, is made of.

    Each sample keeps a level of its own, so that long samples being different from short ones is not taken for a slope:
    slope = sum_i Sxy_i / sum_i Sxx_i with S about the sample's own means.

    Args:
        values: (N, T), NaN where missing.

    Returns:
        Sxy (N,) and Sxx (N,).
    """
    present = values.isfinite()
    y = values.nan_to_num().masked_fill(~present, 0)
    x = torch.arange(1, values.shape[1] + 1, dtype=torch.float64).expand_as(y) * present
    count = present.sum(dim=1, keepdim=True).clamp(min=1)
    dx = (x - x.sum(dim=1, keepdim=True) / count) * present
    return (dx * y).sum(dim=1), dx.square().sum(dim=1)  # dx sums to 0, so y's own mean drops out
