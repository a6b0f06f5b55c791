"""Each sample's own text against the other samples' texts: whether the image state S knows which one is its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .estimators import TextBag, equal_texts


class OwnText(NamedTuple):
    """Each sample's text against those of the other samples of one forward: (B,), or () averages. Detached.

    margin: I(own text, S) minus the mean of I(other samples' texts, S).
    own_first: 1 where the own text has the highest I; where k texts share the top, 1/k.
    chance: what ``own_first`` would be for texts in random order.
    compared: 1 where there is another text to compare with; as an average, the number of such samples (never 1).
    """

    margin: Tensor
    own_first: Tensor
    chance: Tensor
    compared: Tensor

    def averages(self) -> OwnText:
        """Return the means over compared samples, float32 scalars."""
        count = self.compared.sum()
        margin, own_first, chance = (
            (torch.where(self.compared > 0, values, 0.0).sum() / count.clamp(min=1)).float() for values in self[:3]
        )
        return OwnText(margin, own_first, chance, count.float())


@torch.no_grad()
def compare_texts(scores: Tensor, bag: TextBag) -> OwnText:
    """Compare the texts of one rank's forward. Neither a collective nor a device read; memory (B, d) and (B, B).

    Equal texts do not compete: they have the same I with every image.

    Args:
        scores: (B, B) I(text of sample j, S of sample i), as `rotated_scores` or an estimator's own gives them.
        bag: of weights that add up to 1 for each valid sample, so that long texts and short ones compare.
    """
    others = bag.valid[:, None] & bag.valid[None] & ~equal_texts(bag)  # (B, B)
    count = others.sum(dim=1)  # (B,)
    own = scores.diagonal()
    mean = torch.where(others, scores, 0.0).sum(dim=1) / count.clamp(min=1)
    higher, tied = ((others & mask).sum(dim=1) for mask in (scores > own[:, None], scores == own[:, None]))
    first = torch.where(higher == 0, 1 / (1 + tied), 0.0)
    return OwnText(own - mean, first, 1 / (1 + count), (count > 0).float())


def rotated_scores(information: Callable[[Tensor, TextBag], Tensor], anchors: Tensor, bag: TextBag) -> Tensor:
    """Return I(text of sample j, S of sample i) as (B, B), from B calls of an estimator.

    Each call pairs every image with the text of another sample of the same batch, so an estimator that reads the whole
    batch has its usual input.

    Args:
        information: of anchors (B, d) and a bag; (B,).
        anchors: rows of samples that are not valid are zero.
    """
    columns = []
    for shift in range(len(bag.valid)):
        vector, square, weight, valid = (
            values.roll(-shift, dims=0) for values in (bag.vector, bag.square_norm, bag.weight, bag.valid)
        )
        columns.append(information(anchors, TextBag(vector, square, weight, valid & bag.valid)))
    rotated = torch.stack(columns, dim=1)  # (B, B): at [i, shift], the text of sample i + shift
    number = torch.arange(len(columns), device=anchors.device)
    return rotated.gather(1, (number[None] - number[:, None]) % len(columns))
