"""Estimators of the mutual information I(x_t, S_n) between a text token and the image.

An estimator sees the whole batch, one anchor S_n and one weighted bag of text vectors per sample, and returns the
weighted sum of I per sample. So estimators that need the other samples (contrastive ones) fit beside these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einops import einsum, reduce
from torch import Tensor
from torch.nn.functional import normalize

from ..config import ESTIMATORS


@dataclass(frozen=True)
class TextBag:
    """Each sample's text, summed with weights w_t. All float32.

    Args:
        vector: (B, d) sum_t w_t x_t, or sum_t w_t x_t/|x_t| for an estimator with ``unit_text``.
        square_norm: (B,) sum_t w_t |x_t|^2, of the same vectors.
        weight: (B,) sum_t w_t.
        valid: (B,) bool, the samples that have both an image and text in scope; the others' rows are zero.
    """

    vector: Tensor
    square_norm: Tensor
    weight: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Estimator:
    """A registered estimator: ``information(anchors (B, d), bag) -> (B,)``, the sum over t of w_t I(x_t, S_n)."""

    name: str
    information: Callable[[Tensor, TextBag], Tensor]
    unit_text: bool


def register_estimator(
    name: str, *, unit_text: bool = False
) -> Callable[[Callable[[Tensor, TextBag], Tensor]], Callable[[Tensor, TextBag], Tensor]]:
    """Decorator: make ``--vista_method name`` use ``function(anchors, bag) -> (B,)``.

    Args:
        name: how the estimator is called.
        unit_text: the bag sums x_t/|x_t| instead of x_t.

    Raises:
        RegistryError: the name is taken.
    """

    def register(function: Callable[[Tensor, TextBag], Tensor]) -> Callable[[Tensor, TextBag], Tensor]:
        ESTIMATORS.add(name, Estimator(name, function, unit_text))
        return function

    return register


@register_estimator("l2")
def l2(anchors: Tensor, bag: TextBag) -> Tensor:
    """I = -mean_d (S_n - x_t)^2, the published default; expanded so that only the bag is needed.

    sum_t w_t |S - x_t|^2 = (sum_t w_t)|S|^2 - 2 S.(sum_t w_t x_t) + sum_t w_t |x_t|^2
    """
    cross = einsum(anchors, bag.vector, "b d, b d -> b")
    square = bag.weight * reduce(anchors.square(), "b d -> b", "sum")
    return -(square - 2 * cross + bag.square_norm) / anchors.shape[-1]


@register_estimator("cosine", unit_text=True)
def cosine(anchors: Tensor, bag: TextBag) -> Tensor:
    """I = cos(S_n, x_t). Linear in x_t/|x_t|, so one dot product with the bag of unit vectors."""
    return einsum(normalize(anchors, dim=-1, eps=1e-8), bag.vector, "b d, b d -> b")
