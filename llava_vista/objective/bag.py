"""One pass over the embeddings: the weighted bag of text vectors of each sample, in float32, with its gradient.

Written as an autograd function so that neither direction keeps or makes a (B, L, d) float32 tensor: the forward reads
the embeddings piece by piece, the backward writes their gradient piece by piece and in their own dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import einsum
from torch import Tensor
from torch.autograd.function import once_differentiable

from .precision import wide

_EPS = 1e-8
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
    return torch.empty_like(x[pieces[0].at] if pieces else x[:0], dtype=torch.float32)


def _read(x: Tensor, used: Tensor, piece: _Piece, memory: Tensor) -> Tensor:
    """A float32 copy (b, l, d) of a piece, in ``memory``; zeros in rows without a weight, even where they hold NaN."""
    part = x[piece.at]
    rows = memory[: part.shape[0], : part.shape[1]].copy_(part)
    return rows if piece.rows == "all" else rows.masked_fill_(~used[piece.at][..., None], 0.0)


class _WeightedBag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, unit: bool) -> tuple[Tensor, ...]:
        weights = weights.permute(1, 0, 2).contiguous()  # (B, K, L)
        used = (weights != 0).any(dim=1)  # (B, L)
        vector = x.new_zeros((*weights.shape[:2], x.shape[-1]), dtype=torch.float32)  # (B, K, d)
        square = vector.new_zeros(used.shape)  # (B, L)
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
                scale = scale / length2.sqrt().clamp(min=_EPS)[:, None]
            vector[samples].baddbmm_(scale, rows)
        ctx.unit, ctx.pieces = unit, pieces
        ctx.save_for_backward(x, weights[:, 0], used, square)
        if unit:
            square = square / square.clamp(min=_EPS**2)
        squares = einsum(wide(weights), wide(square), "b k l, b l -> b k")
        outputs = vector[:, 0], squares[:, 0], vector[:, 1:], squares[:, 1:]
        ctx.mark_non_differentiable(*outputs[2:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor, grad_square: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x, with g and h those of the first set's vector and square.

        Row l gets w_l (g + 2 h x_l). For unit vectors, whose square is constant, it gets
        w_l / |x_l| (g - (g . x_l) / |x_l|^2 x_l).
        """
        x, weight, used, square = ctx.saved_tensors
        grad = torch.empty_like(x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            pull = pull.float()[:, None]  # (B, 1, d)
            own = (2 * grad_square.float())[:, None].expand_as(weight)  # (B, L)
            if ctx.unit:
                weight = weight / square.sqrt().clamp(min=_EPS)
            memory = _memory(x, ctx.pieces)
            for piece in ctx.pieces:
                if piece.rows == "none":
                    grad[piece.at] = 0
                    continue
                samples = piece.at[0]
                rows = _read(x, used, piece, memory)
                factor = own[piece.at][..., None]  # (b, l, 1)
                if ctx.unit:
                    along = torch.bmm(rows, pull[samples].transpose(1, 2))  # (b, l, 1)
                    factor = -along / square[piece.at].clamp(min=_EPS**2)[..., None]
                torch.addcmul(pull[samples], rows, factor, out=rows).mul_(weight[piece.at][..., None])
                grad[piece.at] = rows
        return grad, None, None


def weighted_bag(x: Tensor, weights: Tensor, *, unit: bool) -> tuple[Tensor, Tensor]:
    """Sum the rows of each sample with several sets of weights at once.

    Args:
        x: (B, L, d) embeddings, any floating dtype.
        weights: (K, B, L) float32, 0 at rows that do not take part. No gradient flows into them.
        unit: sum x/|x| instead of x.

    Returns:
        vector (K, B, d) = sum_l w_l x_l, float32, and square (K, B) = sum_l w_l |x_l|^2, `wide`. Only the first set's
        carry a gradient.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        first, square, others, squares = _WeightedBag.apply(x, weights, unit)
    return torch.cat([first[:, None], others], dim=1).transpose(0, 1), torch.cat([square[:, None], squares], dim=1).T
