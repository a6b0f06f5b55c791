"""Each sample's own text against the other samples' texts: whether the image state S knows which one is its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .estimators import Estimator, TextBag, equal_texts


class OwnText(NamedTuple):
    """Each sample's text against those of the other samples of one forward. Float32 scalars, detached.

    margin: mean over compared samples of I(own text, S) minus the mean of I(other samples' texts, S).
    own_first: share of compared samples whose own text has the highest I; k texts that share the top count 1/k.
    chance: what ``own_first`` would be for texts in random order.
    compared: number of samples with another text to compare with; 0, or at least 2.
    """

    margin: Tensor
    own_first: Tensor
    chance: Tensor
    compared: Tensor


@torch.no_grad()
def compare_texts(estimator: Estimator, anchors: Tensor, bag: TextBag, options: dict[str, float]) -> OwnText:
    """Compare the texts of one rank's forward. Neither a collective nor a device read; memory (B, d) and (B, B).

    Equal texts do not compete: they have the same I with every image.

    Args:
        estimator: with ``scores``, its own (B, B) are compared; else it is called with each rotation of the texts.
        anchors: (B, d), rows of samples that are not valid are zero.
        bag: of weights that add up to 1 for each valid sample, so that long texts and short ones compare.
        options: keyword arguments of the estimator.
    """
    if estimator.scores is not None:
        scores = estimator.scores(anchors, bag, **options)
    else:
        scores = rotated_scores(estimator, anchors, bag, options)
    valid = bag.valid
    others = valid[:, None] & valid[None] & ~equal_texts(bag)  # (B, B)
    count = others.sum(dim=1)  # (B,)
    compared = count > 0
    own = scores.diagonal()
    mean = torch.where(others, scores, 0.0).sum(dim=1) / count.clamp(min=1)
    higher, tied = ((others & mask).sum(dim=1) for mask in (scores > own[:, None], scores == own[:, None]))
    first = torch.where(higher == 0, 1 / (1 + tied), 0.0)

    def average(values: Tensor) -> Tensor:
        return (torch.where(compared, values, 0.0).sum() / compared.sum().clamp(min=1)).float()

    return OwnText(average(own - mean), average(first), average(1 / (1 + count)), compared.sum().float())


def rotated_scores(estimator: Estimator, anchors: Tensor, bag: TextBag, options: dict[str, float]) -> Tensor:
    """Return I(text of sample j, S of sample i) as (B, B), from B calls of the estimator.

    Each call pairs every image with the text of another sample of the same batch, so an estimator that reads the whole
    batch has its usual input.
    """
    batch = len(bag.valid)
    number = torch.arange(batch, device=anchors.device)
    columns = []
    for shift in range(batch):
        vector, square, weight, valid = (
            values.roll(-shift, dims=0) for values in (bag.vector, bag.square_norm, bag.weight, bag.valid)
        )
        columns.append(estimator.information(anchors, TextBag(vector, square, weight, valid & bag.valid), **options))
    rotated = torch.stack(columns, dim=1)  # (B, B): at [i, shift], the text of sample i + shift
    return rotated.gather(1, (number[None] - number[:, None]) % batch)
