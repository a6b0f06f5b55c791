"""Who sums up the rows of a tensor: the Triton kernels on a GPU where they work, else PyTorch."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from types import ModuleType

import torch
from torch import Tensor

from ..log import warn_once
from . import rows

#: Environment variable; "0" switches the kernels off.
SWITCH = "LLAVA_VISTA_TRITON"


def backend(x: Tensor) -> ModuleType:
    """The module whose ``sum_rows`` and ``write_rows`` suit x (B, L, d)."""
    suits = x.is_cuda and x.dtype != torch.float64 and x.stride(-1) == 1 and x.numel() > 0
    if not suits or os.environ.get(SWITCH) == "0":
        return rows
    return _tried(x.device, x.dtype, x.shape[-1])


@functools.cache
def _tried(device: torch.device, dtype: torch.dtype, width: int) -> ModuleType:
    """The kernels, if they run and agree with PyTorch on this device. Found out once per kind of tensor."""
    if importlib.util.find_spec("triton") is None:
        return rows
    try:
        kernels = importlib.import_module(f"{__package__}.rows_triton")
        if width > kernels.WIDEST:
            return rows
        if agree(kernels, device, dtype, width):
            return kernels
        reason = "their results are wrong"
    except Exception as error:  # noqa: BLE001  whatever a compiler or a driver may raise: there is another way
        reason = f"{type(error).__name__}: {error}"
    warn_once(f"PyTorch, not Triton, sums up VISTA's text on {device} ({reason}). {SWITCH}=0 silences this.")
    return rows


def agree(kernels: ModuleType, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the kernels give what PyTorch gives, on a few random rows, some without a weight. Reads the device."""
    generator = torch.Generator().manual_seed(0)  # the run's own random state stays as it is
    x = torch.randn(2, 40, width, generator=generator)
    weights = torch.rand(2, 2, 40, generator=generator)
    weights[:, :, ::3], x[:, ::3] = 0, torch.nan
    x, weights = x.to(device, dtype), weights.to(device)
    used, weight, pull, own = weights[:, 0] != 0, weights[:, 0], x[:, 1].float(), weights[:, 0, 1]
    for unit in (False, True):
        vector, square = rows.sum_rows(x, weights, used, unit)
        wanted = vector, square, rows.write_rows(x, weight, used, square, pull, own, unit)
        vector, square = kernels.sum_rows(x, weights, used, unit)
        found = vector, square, kernels.write_rows(x, weight, used, square, pull, own, unit)
        for ours, theirs in zip(found, wanted, strict=True):
            bound = 1e-5 if theirs.dtype == torch.float32 else torch.finfo(dtype).eps
            largest = theirs.float().abs().max()
            if ours.dtype != theirs.dtype or not (ours.float() - theirs.float()).abs().max() <= bound * largest:
                return False
    return True
