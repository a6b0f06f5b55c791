"""Ratios with bootstrap intervals over samples, of one record or of two in pairs.

Tokens of a sample depend on each other, so whole samples are resampled, never tokens. All float64 on the CPU. This is
torch and not ``kit/statistics.py``, because a host's training environment, in which a checkpoint has to be probed, need
not have scipy.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

CONFIDENCE, RESAMPLES = 0.95, 1000
#: (N, ...) numerators and denominators of N samples.
Parts = tuple[Tensor, Tensor]


class Estimate(NamedTuple):
    """A value with its interval over n samples; NaN where undefined (no sample, or an interval of one sample)."""

    value: float
    low: float
    high: float
    n: int

    def record(self) -> dict[str, Any]:
        """Return plain values for the JSON, which has no NaN: None is "undefined"."""
        values = {key: value if math.isfinite(value) else None for key, value in self._asdict().items()}
        return {**values, "confidence": CONFIDENCE}


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

    def ratios(self, *parts: Parts) -> list[Estimate]:
        """Return sum(numerators) / sum(denominators), of one set or of the second set less the first.

        The parts are (N,) or (N, K), of the same samples, for K estimates. A sample with denominator 0 takes no part.
        """
        columns = [tuple(part.double().reshape(len(part), -1) for part in pair) for pair in parts]

        def value(weights: Tensor) -> Tensor:
            found = [(weights @ above) / (weights @ below) for above, below in columns]
            return found[-1] - found[0] if len(found) > 1 else found[0]

        values = value(torch.ones(1, self.counts.shape[1], dtype=torch.float64))[0]
        low, high = percentile_interval(value(self.counts))
        n = torch.stack([below != 0 for _, below in columns]).all(dim=0).sum(dim=0)
        low, high = (bound.masked_fill(n < 2, torch.nan) for bound in (low, high))  # one sample has no interval
        return list(map(Estimate, values.tolist(), low.tolist(), high.tolist(), n.tolist()))
