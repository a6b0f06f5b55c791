"""Estimators of the mutual information I(x_t, S_n) between a text token and the image.

An estimator sees the whole batch, one anchor S_n and one weighted bag of text vectors per sample, and returns the
weighted sum of I per sample. So estimators that need the other samples (contrastive ones) fit beside these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum, reduce
from torch import Tensor
from torch.nn.functional import normalize

from ..config import ESTIMATORS
from .text_sums import wide


@dataclass(frozen=True)
class TextBag:
    """Each sample's text, summed with weights w_t.

    Args:
        vector: (B, d) float32, sum_t w_t x_t, or sum_t w_t x_t/|x_t| for an estimator with ``unit_text``.
        square_norm: (B,) sum_t w_t |x_t|^2, of the same vectors; float64 where the device has it, else float32.
        weight: (B,) sum_t w_t, as square_norm.
        valid: (B,) bool, the samples that have both an image and text in scope; the others' rows are zero.
    """

    vector: Tensor
    square_norm: Tensor
    weight: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Estimator:
    """A registered estimator: ``information(anchors (B, d), bag, **options) -> (B,)``, sum_t w_t I(x_t, S_n).

    ``scores``, of the same arguments, gives the (B, B) that compare image i with text j; None: I itself compares them.
    """

    name: str
    information: Callable[..., Tensor]
    unit_text: bool
    joins_ranks: bool
    options: tuple[str, ...]
    scores: Callable[..., Tensor] | None


def register_estimator(
    name: str,
    *,
    unit_text: bool = False,
    joins_ranks: bool = False,
    options: tuple[str, ...] = (),
    scores: Callable[..., Tensor] | None = None,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: make ``--vista_method name`` use ``function(anchors, bag) -> (B,)``.

    Args:
        name: how the estimator is called.
        unit_text: the bag sums x_t/|x_t| instead of x_t.
        joins_ranks: the function is given the samples of all ranks at once (B is then their number), for estimators to
            which the other samples are negatives.
        options: fields of VistaConfig that the function takes as keyword arguments.
        scores: of the same arguments, returns (B, B), how well image i fits text j: for a contrastive estimator, whose
            values depend on all pairs at once. It is read for the log only.

    Raises:
        RegistryError: the name is taken.
    """

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        ESTIMATORS.add(name, Estimator(name, function, unit_text, joins_ranks, options, scores))
        return function

    return register


def l2_scores(anchors: Tensor, bag: TextBag) -> Tensor:
    """Return `l2` of every image and text, (B, B)."""
    anchors = wide(anchors)
    cross: Tensor = einsum(anchors, wide(bag.vector), "i d, j d -> i j")
    square: Tensor = einsum(anchors.square(), wide(bag.weight), "i d, j -> i j")
    return -(square - 2 * cross + wide(bag.square_norm)) / anchors.shape[-1]


@register_estimator("l2", scores=l2_scores)
def l2(anchors: Tensor, bag: TextBag) -> Tensor:
    """I = -mean_d (S_n - x_t)^2, the published default; expanded so that only the bag is needed.

    sum_t w_t |S - x_t|^2 = (sum_t w_t)|S|^2 - 2 S.(sum_t w_t x_t) + sum_t w_t |x_t|^2

    The three partly cancel, so they meet in `wide` precision: then the result is as good as that of the differences.
    """
    anchors, vector = wide(anchors), wide(bag.vector)
    cross = einsum(anchors, vector, "b d, b d -> b")
    square = wide(bag.weight) * reduce(anchors.square(), "b d -> b", "sum")
    return -(square - 2 * cross + wide(bag.square_norm)) / anchors.shape[-1]


def cosine_scores(anchors: Tensor, bag: TextBag) -> Tensor:
    """Return `cosine` of every image and text, (B, B)."""
    scores: Tensor = einsum(wide(normalize(anchors, dim=-1, eps=1e-8)), wide(bag.vector), "i d, j d -> i j")
    return scores


@register_estimator("cosine", unit_text=True, scores=cosine_scores)
def cosine(anchors: Tensor, bag: TextBag) -> Tensor:
    """I = cos(S_n, x_t). Linear in x_t/|x_t|, so one dot product with the bag of unit vectors."""
    return (normalize(anchors, dim=-1, eps=1e-8) * bag.vector).sum(dim=-1)


#: Captions whose bags differ by less, relative to their length, are taken for equal.
_EQUAL = 1e-6


def _mean_text(bag: TextBag) -> Tensor:
    weight = bag.weight.float()  # of a registered weighting it may be negative
    return bag.vector / torch.where(weight == 0, torch.ones_like(weight), weight)[:, None]  # (B, d)


@torch.no_grad()
def equal_texts(bag: TextBag) -> Tensor:
    """Return which samples have the same text, (B, B); a sample and itself have."""
    text = _mean_text(bag)
    distance = torch.cdist(text, text, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
    equal: Tensor = distance <= _EQUAL * text.norm(dim=-1)[:, None]
    return equal | equal.T


def contrastive_scores(anchors: Tensor, bag: TextBag, temperature: float) -> Tensor:
    """Return s_ij of `infonce`, (B, B) float32."""
    valid, count = bag.valid, bag.valid.sum().clamp(min=1)

    def directions(rows: Tensor) -> Tensor:
        rows = torch.where(valid[:, None], rows, torch.zeros_like(rows))
        return normalize((rows - rows.sum(dim=0) / count) * valid[:, None], dim=-1, eps=1e-8)

    # `wide`, because a GPU's matrix products are not float32's where the host allows TF32
    images, texts = wide(directions(anchors)), wide(directions(_mean_text(bag)))
    scores: Tensor = einsum(images, texts, "i d, j d -> i j")
    return scores.float() / temperature


@register_estimator("infonce", joins_ranks=True, options=("temperature",), scores=contrastive_scores)
def infonce(anchors: Tensor, bag: TextBag, temperature: float) -> Tensor:
    """A lower bound on the mutual information of image state and text, contrastive and symmetric, per sample.

    With a_i the anchor and b_i the weighted mean of the text vectors of sample i, both centred over the batch and of
    unit length, and scores s_ij = a_i . b_j / temperature over the N valid samples (of all ranks):

        I_i = log N_i + (log softmax_j s_ij [j = i] + log softmax_j s_ji [j = i]) / 2

    where sums run over i itself and its N_i - 1 negatives. InfoNCE (van den Oord et al., arXiv 1807.03748; Poole et
    al., arXiv 1905.06922): for pairs drawn independently from p(S, b), E[log N + log softmax_j f(S_i, b_j)[i]] <=
    I(S; b) for every score f, because the softmax is the posterior of which of N candidates is the pair when f is the
    log density ratio, and any other f does worse. It cannot exceed log N. The mean of both directions is bounded too.

    What is assumed, and so not guaranteed: samples are independent (captions of one batch that share a template are
    not quite); centring makes f depend on the batch, which vanishes as N grows; b is a summary of the text, so the
    bound holds for I(S; b) <= I(S; text), not for single tokens; equal captions are left out of the negatives, which is
    a bound for the distinct captions of the batch.

    Negatives come from one forward: gradient accumulation does not widen the batch. With fewer than two candidates
    I_i is 0, connected to the graph.

    Returns:
        (B,), nats; 0 for samples that are not valid.
    """
    valid, scores = bag.valid, contrastive_scores(anchors, bag, temperature)
    with torch.no_grad():
        itself = torch.eye(len(valid), dtype=torch.bool, device=valid.device)
        excluded = ~itself & (equal_texts(bag) | ~valid[None] | ~valid[:, None])
        candidates = (~excluded).sum(dim=1)  # (B,)
    scores = scores.masked_fill(excluded, -torch.inf)
    forward = scores.diagonal() - scores.logsumexp(dim=1)
    backward = scores.diagonal() - scores.logsumexp(dim=0)
    information = candidates.log() + (forward + backward) / 2
    return torch.where(valid, information, torch.zeros_like(information))
