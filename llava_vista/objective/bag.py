"""One pass over the embeddings: the weighted bag of text vectors of each sample, in float32, with its gradient.

Written as an autograd function so that neither direction keeps or makes a (B, L, d) float32 tensor: the forward reads
the embeddings in slices, the backward writes their gradient in slices and in their own dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from einops import einsum
from torch import Tensor
from torch.autograd.function import once_differentiable

_EPS = 1e-8
# Elements of a float32 slice: small enough to stay in cache on a CPU, large enough to fill a GPU.
_SLICE = {"cpu": 1 << 18, "cuda": 1 << 23}


def _slices(x: Tensor) -> Iterator[slice]:
    """Cut (B, L, d) along L into slices of bounded size."""
    batch, length, width = x.shape
    step = max(1, _SLICE.get(x.device.type, 1 << 20) // max(1, batch * width))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


class _WeightedBag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, unit: bool) -> tuple[Tensor, Tensor]:
        groups, batch, _ = weights.shape
        vector = x.new_zeros((batch, groups, x.shape[-1]), dtype=torch.float32)
        # (B, L) norms of the rows
        norm = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
        by_sample = weights.transpose(0, 1)  # (B, K, L)
        for part in _slices(x):
            rows = x[:, part].float()
            norm[:, part] = torch.linalg.vector_norm(rows, dim=-1)
            scale = by_sample[:, :, part]
            if unit:
                scale = scale / norm[:, None, part].clamp(min=_EPS)
            # rows of weight 0 (image, padding) must not count even when they hold inf or NaN
            vector += einsum(scale, rows, "b k l, b l d -> b k d")
        square = (norm / norm.clamp(min=_EPS)).square() if unit else norm.square()
        ctx.unit = unit
        ctx.save_for_backward(x, weights, norm)
        return vector.transpose(0, 1), einsum(weights, square, "k b l, b l -> k b")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_vector: Tensor, grad_square: Tensor) -> tuple[Tensor, None, None]:
        x, weights, norm = ctx.saved_tensors
        grad = torch.empty_like(x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            by_sample = weights.transpose(0, 1)  # (B, K, L)
            grad_vector = grad_vector.transpose(0, 1).float()  # (B, K, d)
            for part in _slices(x):
                pull = einsum(by_sample[:, :, part], grad_vector, "b k l, b k d -> b l d")
                if ctx.unit:
                    # the gradient of x/|x|: its part along x drops out; the square norm of a unit vector is constant
                    scale = norm[:, part, None].clamp(min=_EPS)
                    along = x[:, part].float() / scale
                    pull -= along * einsum(pull, along, "b l d, b l d -> b l")[..., None]
                    pull /= scale
                else:
                    pull += (
                        2
                        * einsum(by_sample[:, :, part], grad_square, "b k l, k b -> b l")[..., None]
                        * (x[:, part].float())
                    )
                grad[:, part] = pull
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
