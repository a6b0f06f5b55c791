"""The sums of the text rows and their gradient as two Triton kernels: one read; one read and one write.

The same functions as in `rows`, which moves several times as much memory on a GPU, because each of its steps is a
kernel of its own. One program takes some rows of one sample, each row whole, so d has to fit its registers. Rows
without a weight are not even read.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import EPS

#: Rows of one program. The partial sums (B, L / rows, 2, d) are what the forward writes.
_ROWS = 32
#: Widest d, in elements.
WIDEST = 16384


@triton.jit
def _sum_rows(
    x, weights, partial, square, length, width, x_sample, x_row,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, WIDTH)
    inside = column < width
    first = tl.zeros([WIDTH], tl.float32)
    second = tl.zeros([WIDTH], tl.float32)
    for index in range(ROWS):
        row = chunk * ROWS + index
        exists = row < length
        weight_1 = tl.load(weights + 2 * sample * length + row, mask=exists, other=0.0)
        weight_2 = tl.load(weights + (2 * sample + 1) * length + row, mask=exists, other=0.0)
        read = tl.where((weight_1 != 0) | (weight_2 != 0), width, 0)
        values = tl.load(x + sample * x_sample + row.to(tl.int64) * x_row + column, mask=column < read, other=0.0)
        values = values.to(tl.float32)
        length2 = tl.sum(values * values)
        tl.store(square + sample * length + row, length2, mask=exists)
        if UNIT:
            values = values / tl.maximum(tl.sqrt(length2), EPS)
        first += weight_1 * values
        second += weight_2 * values
    target = partial + (sample * tl.num_programs(1) + chunk) * 2 * width + column
    tl.store(target, first, mask=inside)
    tl.store(target + width, second, mask=inside)


@triton.jit
def _write_rows(
    x, weight, own, pull, square, grad, length, width, x_sample, x_row, grad_sample, grad_row,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    sample, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, WIDTH)
    inside = column < width
    pulled = tl.load(pull + sample * width + column, mask=inside, other=0.0)
    factor = tl.load(own + sample)
    for index in range(ROWS):
        row = chunk * ROWS + index
        exists = row < length
        scale = tl.load(weight + sample * length + row, mask=exists, other=0.0)
        read, written = tl.where(scale != 0, width, 0), tl.where(exists, width, 0)
        row_64 = row.to(tl.int64)
        values = tl.load(x + sample * x_sample + row_64 * x_row + column, mask=column < read, other=0.0)
        values = values.to(tl.float32)
        if UNIT:
            norm = tl.maximum(tl.sqrt(tl.load(square + sample * length + row, mask=exists, other=1.0)), EPS)
            factor = -tl.sum(pulled * values) / (norm * norm)
            scale = scale / norm
        result = scale * (pulled + factor * values)
        target = grad + sample * grad_sample + row_64 * grad_row + column
        tl.store(target, result.to(grad.dtype.element_ty), mask=column < written)


def _launch(x: Tensor) -> tuple[tuple[int, int], dict[str, int | float]]:
    """The grid over (B, L, d), and the options that both kernels share."""
    padded = triton.next_power_of_2(x.shape[2])
    warps = max(1, min(16, padded // 512))
    return (x.shape[0], triton.cdiv(x.shape[1], _ROWS)), {
        "ROWS": _ROWS, "WIDTH": padded, "EPS": EPS, "num_warps": warps,
    }  # fmt: skip


def sum_rows(x: Tensor, weights: Tensor, used: Tensor, unit: bool) -> tuple[Tensor, Tensor]:
    """As `rows.sum_rows`, of two sets of weights (B, 2, L), contiguous."""
    batch, length, width = x.shape
    grid, options = _launch(x)
    partial = torch.empty((*grid, 2, width), dtype=torch.float32, device=x.device)
    square = torch.empty((batch, length), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):  # Triton launches on the current device, which need not be that of x
        _sum_rows[grid](x, weights, partial, square, length, width, x.stride(0), x.stride(1), UNIT=unit, **options)
    return partial.sum(dim=1), square


def write_rows(
    x: Tensor, weight: Tensor, used: Tensor, square: Tensor, pull: Tensor, own: Tensor, unit: bool
) -> Tensor:
    """As `rows.write_rows`."""
    grad = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid, options = _launch(x)
    with torch.cuda.device_of(x):
        _write_rows[grid](
            x, weight.contiguous(), own.contiguous(), pull.contiguous(), square, grad, *x.shape[1:],
            x.stride(0), x.stride(1), grad.stride(0), grad.stride(1), UNIT=unit, **options,
        )  # fmt: skip
    return grad
