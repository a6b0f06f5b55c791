"""The dtype of sums whose last digits matter."""

from __future__ import annotations

import torch
from torch import Tensor

#: Device types that are known to compute in float64; Apple's and some of Intel's do not.
_DEVICES = ("cpu", "cuda")


def wide(x: Tensor) -> Tensor:
    """x in float64, where the device has it; else in float32. For tensors of at most (B, d) or (K, B, L) only."""
    return x.to(torch.float64 if x.device.type in _DEVICES else torch.float32)
