"""One pass over the embeddings: the weighted bag of text vectors of each sample, with its gradient.

Written as an autograd function so that neither direction keeps or makes a (B, L, d) float32 tensor: the forward reads
the embeddings once, the backward writes their gradient once and in their own dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import backend
from .precision import wide
from .rows import EPS


class _WeightedBag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, unit: bool) -> tuple[Tensor, ...]:
        weights = weights.permute(1, 0, 2).contiguous()  # (B, 2, L)
        used = (weights != 0).any(dim=1)  # (B, L)
        ctx.rows, ctx.unit = backend(x), unit
        vector, square = ctx.rows.sum_rows(x, weights, used, unit)
        ctx.save_for_backward(x, weights[:, 0], used, square)
        if unit:
            square = square / square.clamp(min=EPS**2)
        squares = einsum(wide(weights), wide(square), "b k l, b l -> b k")
        first, second = (vector[:, 0], squares[:, 0]), (vector[:, 1], squares[:, 1])
        ctx.mark_non_differentiable(*second)
        return *first, *second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor, grad_square: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        x, weight, used, square = ctx.saved_tensors
        with torch.autocast(device_type=x.device.type, enabled=False):
            pull, own = pull.float(), 2 * grad_square.float()
            return ctx.rows.write_rows(x, weight, used, square, pull, own, ctx.unit), None, None


def weighted_bag(x: Tensor, weights: Tensor, *, unit: bool) -> tuple[Tensor, Tensor]:
    """Sum the rows of each sample with two sets of weights at once.

    Args:
        x: (B, L, d) embeddings, any floating dtype.
        weights: (2, B, L) float32, 0 at rows that do not take part. No gradient flows into them.
        unit: sum x/|x| instead of x.

    Returns:
        vector (2, B, d) = sum_l w_l x_l, float32, and square (2, B) = sum_l w_l |x_l|^2, `wide`. Only the first set's
        carry a gradient.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        first, square, second, second_square = _WeightedBag.apply(x, weights, unit)
        return torch.stack([first, second]), torch.stack([square, second_square])
