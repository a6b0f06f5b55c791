"""One pass over the embeddings: the weighted bag of text vectors of each sample, in float32, with its gradient.

Written as an autograd function so that neither direction keeps or makes a (B, L, d) float32 tensor: the forward reads
the embeddings piece by piece, the backward writes their gradient piece by piece and in their own dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from einops import einsum
from torch import Tensor
from torch.autograd.function import once_differentiable

_EPS = 1e-8
# Elements of a float32 piece: on a CPU what stays in one core's cache, on a GPU what fills the device.
_PIECE_CORE, _PIECE_GPU = 1 << 16, 1 << 23

# Samples and positions. Positions are a tensor where rows without a weight are left out, a slice where they are not.
Piece = tuple[slice, slice | Tensor]


def _gathered(used: Tensor, width: int) -> Iterator[Piece]:
    """The used rows of (B, L, d), each piece of one sample. Finding them would cost a GPU a synchronisation."""
    step = max(1, torch.get_num_threads() * _PIECE_CORE // width)
    for sample in range(used.shape[0]):
        for positions in torch.nonzero(used[sample]).flatten().split(step):
            yield slice(sample, sample + 1), positions


def _sliced(used: Tensor, width: int) -> Iterator[Piece]:
    """All rows of (B, L, d), each piece a part of every sample."""
    batch, length = used.shape
    step = max(1, _PIECE_GPU // (batch * width))
    for start in range(0, length, step):
        yield slice(None), slice(start, start + step)


def _pieces(used: Tensor, width: int) -> Iterator[Piece]:
    """Cut (B, L, d) into pieces of bounded size that hold at least the rows used (B, L)."""
    return (_gathered if used.device.type == "cpu" else _sliced)(used, width)


def _rows(x: Tensor, used: Tensor, piece: Piece) -> Tensor:
    """A float32 copy of a piece (b, l, d). Rows without a weight are left out or zero, even where they hold NaN."""
    samples, positions = piece
    if isinstance(positions, Tensor):
        return x[samples].index_select(1, positions).float()
    return torch.where(used[piece][..., None], x[piece].float(), 0.0)


class _WeightedBag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, unit: bool) -> tuple[Tensor, Tensor]:
        by_sample = weights.permute(1, 0, 2).contiguous()  # (B, K, L)
        used = (by_sample != 0).any(dim=1)  # (B, L)
        vector = x.new_zeros((*by_sample.shape[:2], x.shape[-1]), dtype=torch.float32)  # (B, K, d)
        square = torch.zeros(x.shape[:2], dtype=torch.float32, device=x.device)  # (B, L)
        for piece in _pieces(used, x.shape[-1]):
            samples, positions = piece
            rows = _rows(x, used, piece)
            square[piece] = rows.square().sum(-1)  # `vector_norm` loses a digit in float32 on a CPU
            scale = by_sample[samples, :, positions]  # (b, K, l)
            if unit:
                scale = scale / square[piece].sqrt().clamp(min=_EPS)[:, None]
            vector[samples].baddbmm_(scale, rows)
        ctx.unit = unit
        ctx.save_for_backward(x, by_sample, used, square)
        if unit:
            square = square / square.clamp(min=_EPS**2)
        return vector.transpose(0, 1), einsum(by_sample, square, "b k l, b l -> k b")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_vector: Tensor, grad_square: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x, with g and h those of vector and square, and pull_l = sum_k w_kl g_k.

        Row l gets pull_l + 2 (sum_k w_kl h_k) x_l. For unit vectors, whose square is constant, it gets
        (pull_l - (pull_l . x_l) x_l / |x_l|^2) / |x_l|.
        """
        x, by_sample, used, square = ctx.saved_tensors
        grad = torch.zeros_like(x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            pull = grad_vector.transpose(0, 1).float()  # (B, K, d)
            factor = 2 * einsum(by_sample, grad_square.float(), "b k l, k b -> b l")  # (B, L)
            scale = by_sample  # (B, K, L)
            if ctx.unit:
                length = square.sqrt().clamp(min=_EPS)
                scale = by_sample / length[:, None]
            for piece in _pieces(used, x.shape[-1]):
                samples, positions = piece
                rows = _rows(x, used, piece)
                weight = scale[samples, :, positions]  # (b, K, l)
                if ctx.unit:
                    along = torch.bmm(pull[samples], rows.transpose(1, 2))  # (b, K, l)
                    own = -(weight * along).sum(1) / length[piece].square()
                else:
                    own = factor[piece]
                rows.mul_(own[..., None]).baddbmm_(weight.transpose(1, 2), pull[samples])
                grad[piece] = rows.to(x.dtype)
        return grad, None, None


def weighted_bag(x: Tensor, weights: Tensor, *, unit: bool) -> tuple[Tensor, Tensor]:
    """Sum the rows of each sample with several sets of weights at once.

    Args:
        x: (B, L, d) embeddings, any floating dtype.
        weights: (K, B, L) float32, 0 at rows that do not take part. No gradient flows into them.
        unit: sum x/|x| instead of x.

    Returns:
        vector (K, B, d) = sum_l w_l x_l and square (K, B) = sum_l w_l |x_l|^2, float32.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        vector, square = _WeightedBag.apply(x, weights, unit)
    return vector, square
