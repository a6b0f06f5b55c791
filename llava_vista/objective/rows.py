"""The sums of the text rows and their gradient in PyTorch, piece by piece: nothing of size (B, L, d) in float32.

`rows_triton` has the same two functions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Least length that a vector is divided by.
EPS = 1e-8
# Elements of a float32 piece: on a CPU what stays in a core's cache, elsewhere what fills the device.
_PIECE_CORE, _PIECE_DEVICE = 1 << 17, 1 << 23


class _Piece(NamedTuple):
    """A part (b, l) of (B, L): some whole samples, or some positions of one.

    rows: "all" of them have a weight, "none", or "some" (also where finding out would be a host sync).
    """

    at: tuple[slice, slice]
    rows: str


def _cut(used: Tensor, width: int) -> list[_Piece]:
    """Cut (B, L, width), whose rows ``used`` (B, L) have a weight, into pieces, none larger than the first."""
    batch, length = used.shape
    host = used.device.type == "cpu"
    rows = max(1, (torch.get_num_threads() * _PIECE_CORE if host else _PIECE_DEVICE) // max(1, width))
    samples, positions = max(1, rows // max(1, length)), min(rows, max(1, length))
    pieces = []
    flags = used.tolist() if host else None
    for first in range(0, batch, samples):
        for start in range(0, length, positions):
            at = slice(first, min(first + samples, batch)), slice(start, min(start + positions, length))
            state = "some"
            if flags is not None:
                found = {flag for row in flags[at[0]] for flag in row[at[1]]}
                state = "some" if len(found) == 2 else "all" if True in found else "none"
            pieces.append(_Piece(at, state))
    return pieces


def _memory(x: Tensor, pieces: list[_Piece]) -> Tensor:
    """Float32 memory for a piece (b, l, d) of x. Kept over the pieces: a fresh one has to be mapped page by page."""
    return x.new_empty((x[pieces[0].at] if pieces else x).shape, dtype=torch.float32)


def _read(x: Tensor, used: Tensor, piece: _Piece, memory: Tensor) -> Tensor:
    """A float32 copy (b, l, d) of a piece, in ``memory``; zeros in rows without a weight, even where they hold NaN."""
    part = x[piece.at]
    rows = memory[: part.shape[0], : part.shape[1]].copy_(part)
    return rows if piece.rows == "all" else rows.masked_fill_(~used[piece.at][..., None], 0.0)


def sum_rows(x: Tensor, weights: Tensor, used: Tensor, unit: bool) -> tuple[Tensor, Tensor]:
    """The weighted sums of the rows, and their squared lengths.

    Args:
        x: (B, L, d).
        weights: (B, K, L) float32.
        used: (B, L) bool, the rows with a weight other than 0; the others do not count even where they hold NaN.
        unit: sum x/|x| instead of x.

    Returns:
        vector (B, K, d) = sum_l w_l x_l and square (B, L) = |x_l|^2, float32.
    """
    vector = x.new_zeros((*weights.shape[:2], x.shape[-1]), dtype=torch.float32)
    square = vector.new_zeros(used.shape)
    pieces = _cut(used, x.shape[-1])
    memory, scratch = _memory(x, pieces), _memory(x, pieces)
    for piece in pieces:
        if piece.rows == "none":
            continue
        samples, positions = piece.at
        rows = _read(x, used, piece, memory)
        # `vector_norm` loses a digit in float32 on a CPU
        products = torch.mul(rows, rows, out=scratch[: rows.shape[0], : rows.shape[1]])
        length2 = torch.sum(products, dim=-1, out=square[piece.at])  # (b, l)
        scale = weights[samples, :, positions]  # (b, K, l)
        if unit:
            scale = scale / length2.sqrt().clamp(min=EPS)[:, None]
        vector[samples].baddbmm_(scale, rows)
    return vector, square


def write_rows(
    x: Tensor, weight: Tensor, used: Tensor, square: Tensor, pull: Tensor, own: Tensor, unit: bool
) -> Tensor:
    """The gradient of x, in its dtype, each row written once.

    Row l gets w_l (pull + own x_l). With unit vectors, whose square is constant, it gets
    w_l / |x_l| (pull - (pull . x_l) / |x_l|^2 x_l), and ``own`` is not used.

    Args:
        x: (B, L, d).
        weight: (B, L) float32.
        used: (B, L) bool, as in `sum_rows`; the gradient of other rows is 0.
        square: (B, L) float32, from `sum_rows`.
        pull: (B, d) float32, the gradient of the vector.
        own: (B,) float32, twice the gradient of sum_l w_l |x_l|^2.
        unit: as in `sum_rows`.
    """
    grad = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    pieces = _cut(used, x.shape[-1])
    memory = _memory(x, pieces)
    if unit:
        weight = weight / square.sqrt().clamp(min=EPS)
    pull, factors = pull[:, None], own[:, None, None]  # (B, 1, d), (B, 1, 1)
    for piece in pieces:
        if piece.rows == "none":
            grad[piece.at] = 0
            continue
        samples = piece.at[0]
        rows = _read(x, used, piece, memory)
        factor = factors[samples]
        if unit:
            along = torch.bmm(rows, pull[samples].transpose(1, 2))  # (b, l, 1)
            factor = -along / square[piece.at].clamp(min=EPS**2)[..., None]
        torch.addcmul(pull[samples], rows, factor, out=rows).mul_(weight[piece.at][..., None])
        grad[piece.at] = rows
    return grad
