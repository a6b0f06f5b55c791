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
_SLICE_CPU, _SLICE_GPU = 1 << 18, 1 << 23


def _slices(used: Tensor, width: int) -> Iterator[tuple[slice, slice]]:
    """Cut (B, L, d) into slices of bounded size along B and L.

    On a CPU a slice is one piece of memory (of one sample), and those without a used row are left out, which costs
    nothing to find out there; on a GPU it would cost a synchronisation, and whole batches fill the device better.

    Args:
        used: (B, L) bool, rows with a weight.
        width: d.
    """
    batch, length = used.shape
    if used.device.type == "cpu":
        step = max(1, _SLICE_CPU // width)
        for sample in range(batch):
            for start in range(0, length, step):
                if bool(used[sample, start : start + step].any()):
                    yield slice(sample, sample + 1), slice(start, start + step)
    else:
        step = max(1, _SLICE_GPU // (batch * width))
        for start in range(0, length, step):
            yield slice(None), slice(start, start + step)


def _rows(x: Tensor, used: Tensor, index: tuple[slice, slice]) -> Tensor:
    """A slice in float32 (b, l, d); rows without a weight are zero, even where they hold inf or NaN."""
    rows, mask = x[index].float(), used[index]
    if mask.device.type == "cpu" and bool(mask.all()):
        return rows
    return torch.where(mask[..., None], rows, torch.zeros((), device=rows.device))


class _WeightedBag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, unit: bool) -> tuple[Tensor, Tensor]:
        by_sample = weights.permute(1, 0, 2).contiguous()  # (B, K, L)
        used = (by_sample != 0).any(dim=1)  # (B, L)
        vector = x.new_zeros((*by_sample.shape[:2], x.shape[-1]), dtype=torch.float32)  # (B, K, d)
        norm = torch.zeros(x.shape[:2], dtype=torch.float32, device=x.device)  # (B, L)
        for index in _slices(used, x.shape[-1]):
            rows = _rows(x, used, index)
            norm[index] = torch.linalg.vector_norm(rows, dim=-1)
            scale = by_sample[index[0], :, index[1]]
            if unit:
                scale = scale / norm[index][:, None].clamp(min=_EPS)
            vector[index[0]].baddbmm_(scale, rows)
        square = (norm / norm.clamp(min=_EPS)).square() if unit else norm.square()
        ctx.unit = unit
        ctx.save_for_backward(x, by_sample, used, norm)
        return vector.transpose(0, 1), einsum(by_sample, square, "b k l, b l -> k b")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_vector: Tensor, grad_square: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x, with g and h those of vector and square, and pull_l = sum_k w_kl g_k.

        Row l gets pull_l + 2 (sum_k w_kl h_k) x_l. For unit vectors, whose square is constant, it gets
        (pull_l - (pull_l . x_l) x_l / |x_l|^2) / |x_l|.
        """
        x, by_sample, used, norm = ctx.saved_tensors
        grad = torch.zeros_like(x)
        with torch.autocast(device_type=x.device.type, enabled=False):
            pull = grad_vector.transpose(0, 1).float()  # (B, K, d)
            factor = 2 * einsum(by_sample, grad_square.float(), "b k l, k b -> b l")  # (B, L)
            scale = by_sample  # (B, K, L)
            if ctx.unit:
                length = norm.clamp(min=_EPS)
                scale = by_sample / length[:, None]
            for index in _slices(used, x.shape[-1]):
                rows = _rows(x, used, index)
                weight = scale[index[0], :, index[1]].transpose(1, 2)  # (b, l, K)
                if ctx.unit:
                    along = torch.bmm(rows, pull[index[0]].transpose(1, 2))  # (b, l, K)
                    own = -(weight * along).sum(-1) / length[index].square()
                else:
                    own = factor[index]
                grad[index] = torch.baddbmm(rows * own[..., None], weight, pull[index[0]])
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
