"""One pass over the embeddings: each sample's weighted bag of text vectors, with its gradient.

Neither direction makes or keeps a (B, L, d) float32 tensor. The forward reads the embeddings once, piece by piece; the
backward writes their gradient once and in their own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from einops import einsum
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..layout import Span

#: Device types that are known to compute in float64; Apple's and some of Intel's do not.
_DEVICES = ("cpu", "cuda")


def wide(x: Tensor) -> Tensor:
    """x in float64, where the device has it; else in float32. For tensors of at most (B, d) or (K, B, L) only."""
    return x.to(torch.float64 if x.device.type in _DEVICES else torch.float32)


#: Least length that a vector is divided by.
EPS = 1e-8
# Elements of a float32 piece: on a CPU what stays in a core's share of the caches and is worth the dozen calls that a
# piece takes, elsewhere what fills the device.
_PIECE_CORE, _PIECE_DEVICE = 1 << 19, 1 << 23
# Samples of at most so many elements share a piece on a CPU, too: reading them all costs less than telling rows apart.
_SMALL = 1 << 16
# Shorter runs of rows with a weight, or without, share a piece: a piece has a price, too.
_SHORT = 8


def per_sample(reduce: Callable[..., Tensor], values: Tensor, spans: Sequence[Span] | None) -> Tensor:
    """Reduce (..., B, L) over the positions of each sample: (..., B), or (..., N) for N spans."""
    if spans is None:
        return reduce(values, dim=-1)
    return torch.stack([reduce(values[..., row, start:stop], dim=-1) for row, start, stop in spans], dim=-1)


class _Piece(NamedTuple):
    """A part (b, l) of (B, L): some whole samples, or some positions of one.

    samples: their numbers. at: where they are.
    rows: "all" of them have a weight, "none", or "some" (also where finding out would be a host sync).
    """

    samples: slice
    at: tuple[slice, slice]
    rows: str


def _runs(flags: list[bool]) -> list[tuple[str, int, int]]:
    """What, from where to where: a sample's runs of rows that all have a weight or all have none."""
    runs: list[tuple[str, int, int]] = []
    stop = 0
    for flag, group in groupby(flags):
        start, stop = stop, stop + sum(1 for _ in group)
        what = "some" if stop - start < _SHORT else "all" if flag else "none"
        if what == "some" and runs and runs[-1][0] == "some":
            start = runs.pop()[1]
        runs.append((what, start, stop))
    return runs


def _cut(used: Tensor, width: int, spans: Sequence[Span] | None = None) -> list[_Piece]:
    """Cut (B, L, width), whose rows ``used`` (B, L) have a weight, into pieces."""
    batch, length = used.shape
    host = used.device.type == "cpu"
    width = max(1, width)
    largest = max(1, (torch.get_num_threads() * _PIECE_CORE if host else _PIECE_DEVICE) // width)
    if spans is None and length <= (min(largest, _SMALL // width) if host else largest):
        step = largest // max(1, length)
        several = [slice(first, first + step) for first in range(0, batch, step)]
        return [_Piece(samples, (samples, slice(0, length)), "some") for samples in several]
    flags = used.tolist() if host else None
    pieces = []
    for sample, (row, start, stop) in enumerate(spans or [Span(row, 0, length) for row in range(batch)]):
        for what, first, last in _runs(flags[row][start:stop]) if flags else [("some", 0, stop - start)]:
            rows = last - first
            count = 1 if what == "none" else math.ceil(rows / largest)
            edges = [start + first + rows * number // count for number in range(count + 1)]
            samples = slice(sample, sample + 1)
            pieces += [_Piece(samples, (slice(row, row + 1), slice(*pair)), what) for pair in pairwise(edges)]
    return pieces


def _memory(x: Tensor, pieces: list[_Piece]) -> Tensor:
    """Float32 memory for any piece to be read. Kept over the pieces: a fresh one has to be mapped page by page."""
    most = max([0, *(x[piece.at].numel() for piece in pieces if piece.rows != "none")])
    return torch.empty(most, dtype=torch.float32, device=x.device)


def _read(x: Tensor, used: Tensor, piece: _Piece, memory: Tensor) -> Tensor:
    """A float32 copy (b, l, d) of a piece, in ``memory``; zeros in rows without a weight, even where they hold NaN."""
    part = x[piece.at]
    rows = memory[: part.numel()].view(part.shape).copy_(part)
    return rows if piece.rows == "all" else rows.masked_fill_(~used[piece.at][..., None], 0.0)


def _multiplies_exactly(device: torch.device) -> bool:
    """Whether float32 matrix products are float32's: not on a GPU whose host allows TF32, as LLaVA's scripts do."""
    return device.type == "cpu"


def sum_rows(
    x: Tensor, weights: Tensor, used: Tensor, unit: bool, spans: Sequence[Span] | None = None
) -> tuple[Tensor, Tensor]:
    """The weighted sums of the rows, and their squared lengths.

    Args:
        x: (B, L, d).
        weights: (B, K, L) float32.
        used: (B, L) bool, the rows with a weight other than 0; the others do not count even where they hold NaN.
        unit: sum x/|x| instead of x.
        spans: the N samples, where rows hold several; else N is B.

    Returns:
        vector (N, K, d) = sum_l w_l x_l and square (B, L) = |x_l|^2, float32.
    """
    number = len(x) if spans is None else len(spans)
    vector = x.new_zeros((number, weights.shape[1], x.shape[-1]), dtype=torch.float32)
    square = vector.new_zeros(used.shape)
    pieces = _cut(used, x.shape[-1], spans)
    memory, scratch = _memory(x, pieces), _memory(x, pieces)
    for piece in pieces:
        if piece.rows == "none":
            continue
        batch, positions = piece.at
        rows = _read(x, used, piece, memory)
        # `vector_norm` loses a digit in float32 on a CPU
        products = torch.mul(rows, rows, out=scratch[: rows.numel()].view(rows.shape))
        length2 = torch.sum(products, dim=-1, out=square[piece.at])  # (b, l)
        scale = weights[batch, :, positions]  # (b, K, l)
        if unit:
            scale = scale / length2.sqrt().clamp(min=EPS)[:, None]
        if _multiplies_exactly(x.device):
            vector[piece.samples].baddbmm_(scale, rows)
        else:
            for number in range(scale.shape[1]):
                vector[piece.samples, number] += torch.mul(rows, scale[:, number, :, None], out=products).sum(1)
    return vector, square


def write_rows(
    x: Tensor,
    weight: Tensor,
    used: Tensor,
    square: Tensor,
    pull: Tensor,
    own: Tensor,
    unit: bool,
    spans: Sequence[Span] | None = None,
) -> Tensor:
    """The gradient of x, in its dtype, each row written once.

    Row l gets w_l (pull + own x_l). With unit vectors, whose square is constant, it gets
    w_l / |x_l| (pull - (pull . x_l) / |x_l|^2 x_l), and ``own`` is not used.

    Args:
        x: (B, L, d).
        weight: (B, L) float32.
        used: (B, L) bool, as in `sum_rows`; the gradient of other rows is 0.
        square: (B, L) float32, from `sum_rows`.
        pull: (N, d) float32, the gradient of the vector.
        own: (N,) float32, twice the gradient of sum_l w_l |x_l|^2.
        unit, spans: as in `sum_rows`.
    """
    # Spans need not cover every row.
    grad = (torch.empty if spans is None else torch.zeros)(x.shape, dtype=x.dtype, device=x.device)
    pieces = _cut(used, x.shape[-1], spans)
    memory = _memory(x, pieces)
    if unit:
        weight = weight / square.sqrt().clamp(min=EPS)
    pull, factors = pull[:, None], own[:, None, None]  # (N, 1, d), (N, 1, 1)
    for piece in pieces:
        if piece.rows == "none":
            grad[piece.at] = 0
            continue
        samples = piece.samples
        rows = _read(x, used, piece, memory)
        factor = factors[samples]
        if unit:
            if _multiplies_exactly(x.device):
                along = torch.bmm(rows, pull[samples].transpose(1, 2))  # (b, l, 1)
            else:
                along = (rows * pull[samples]).sum(-1, keepdim=True)
            factor = -along / square[piece.at].clamp(min=EPS**2)[..., None]
        torch.addcmul(pull[samples], rows, factor, out=rows).mul_(weight[piece.at][..., None])
        grad[piece.at] = rows
    return grad


class _WeightedBag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, unit: bool, spans: Sequence[Span] | None) -> tuple[Tensor, ...]:
        weights = weights.permute(1, 0, 2).contiguous()  # (B, 2, L)
        used = (weights != 0).any(dim=1)  # (B, L)
        ctx.unit, ctx.spans = unit, spans
        vector, square = sum_rows(x, weights, used, unit, spans)
        ctx.save_for_backward(x, weights[:, 0], used, square)
        if unit:
            square = square / square.clamp(min=EPS**2)
        squares = (
            einsum(wide(weights), wide(square), "b k l, b l -> k b")
            if spans is None
            else per_sample(torch.sum, wide(weights).transpose(0, 1) * wide(square), spans)
        )  # (2, N)
        first, second = (vector[:, 0], squares[0]), (vector[:, 1], squares[1])
        ctx.mark_non_differentiable(*second)
        return *first, *second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor, grad_square: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, used, square = ctx.saved_tensors
        with torch.autocast(device_type=x.device.type, enabled=False):
            pull, own = pull.float(), 2 * grad_square.float()
            return write_rows(x, weight, used, square, pull, own, ctx.unit, ctx.spans), None, None, None


def weighted_bag(
    x: Tensor, weights: Tensor, *, unit: bool, spans: Sequence[Span] | None = None
) -> tuple[Tensor, Tensor]:
    """Sum the rows of each sample with two sets of weights at once.

    Args:
        x: (B, L, d) embeddings, any floating dtype.
        weights: (2, B, L) float32, 0 at rows that do not take part. No gradient flows into them.
        unit: sum x/|x| instead of x.
        spans: the N samples, where rows hold several; else N is B. Rows outside of all spans have weight 0.

    Returns:
        vector (2, N, d) = sum_l w_l x_l, float32, and square (2, N) = sum_l w_l |x_l|^2, `wide`. Only the first set's
        carry a gradient.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        first, square, second, second_square = _WeightedBag.apply(x, weights, unit, spans)
        return torch.stack([first, second]), torch.stack([square, second_square])
