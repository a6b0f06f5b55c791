"""Neighbourhood agreement: do images that the vision tower finds alike also look alike inside the language model?

Mutual k-nearest-neighbour alignment (Huh et al., arXiv 2405.07987): the share of an image's k nearest neighbours, by
cosine, that two representations have in common, averaged over images. By chance it is about k/(N-1); the null is
measured by pairing the images of one side with those of the other at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..bootstrap import CONFIDENCE, Bootstrap, Estimate
from ..data import Sample
from ..results import estimate_record, number

K = 10
PERMUTATIONS = 200
#: Depths that are kept, so that memory does not grow with the number of layers.
MAX_DEPTHS = 9
REPRESENTATION = "decoder hidden state, mean over image positions, at the input and after layers"


def neighbours(features: Tensor, k: int) -> Tensor:
    """Who is among whose k nearest, by cosine after centring.

    Centring takes out the direction that all images share, which says nothing about which are alike.

    Args:
        features: (N, d), N > k.

    Returns:
        (N, N) float32 of zeros and ones, k ones a row, none on the diagonal.
    """
    unit = normalize(features.float() - features.float().mean(dim=0), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    nearest = similarity.topk(k, dim=1).indices
    return torch.zeros_like(similarity).scatter_(1, nearest, 1.0)


def agreement(left: Tensor, right: Tensor) -> Tensor:
    """(N,) share of neighbours in common, from two results of `neighbours`."""
    return (left * right).sum(dim=1) / left.sum(dim=1)


def permutation_null(left: Tensor, right: Tensor, permutations: int, seed: int) -> Tensor:
    """(permutations,) mean agreement when the two sides are paired at random."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(permutations):
        order = torch.randperm(len(right), generator=generator)
        found.append(agreement(left, right[order][:, order]).mean())
    return torch.stack(found)


def depths(layers: int) -> list[int]:
    """At most `MAX_DEPTHS` of the layer boundaries 0..layers, evenly spaced, both ends among them."""
    count = min(layers + 1, MAX_DEPTHS)
    if count == 1:
        return [0]
    return [round(index * layers / (count - 1)) for index in range(count)]


class Neighbours:
    """Collects one vector per distinct image and depth, and one of the tower.

    Args:
        tower: what the tower is called.
    """

    def __init__(self, tower: str) -> None:
        self.tower_name = tower
        self.at: list[int] = []
        self._names: set[str] = set()
        self._states: list[Tensor] = []
        self._tower: list[Tensor] = []

    def add(self, samples: Sequence[Sample], states: Sequence[Tensor], tower: Tensor) -> None:
        """One batch.

        Args:
            states: per layer boundary (B, d).
            tower: (B, d_vision).
        """
        self.at = depths(len(states) - 1)
        for row, sample in enumerate(samples):
            if str(sample.image) in self._names:
                continue  # a second copy of an image would be everyone's nearest neighbour of itself
            self._names.add(str(sample.image))
            self._states.append(torch.stack([states[depth][row].cpu() for depth in self.at]))
            self._tower.append(tower[row].float().cpu())

    def record(self, resamples: int, seed: int) -> dict[str, Any]:
        """The results, for the JSON."""
        count = len(self._tower)
        k = min(K, (count - 1) // 2)
        head: dict[str, Any] = {
            "measure": "mutual k-nearest neighbours, cosine",
            "k": k,
            "images": count,
            "representation": REPRESENTATION,
            "tower": self.tower_name,
            "depth": self.at,
        }
        if k < 1:
            return {**head, "by_depth": [], "note": f"too few images for neighbours ({count}; at least 3 are needed)"}
        bootstrap = Bootstrap(count, resamples, seed)
        tower = neighbours(torch.stack(self._tower), k)
        states = torch.stack(self._states)  # (N, depths, d)
        ones = torch.ones(count, dtype=torch.float64)
        by_depth = []
        for index in range(len(self.at)):
            inside = neighbours(states[:, index], k)
            shared = agreement(inside, tower)
            null = permutation_null(inside, tower, PERMUTATIONS, seed).double()
            tail = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
            low, high = null.quantile(tail).tolist()
            by_depth.append(
                {
                    # neighbours are found once, among all images: the interval is that of a mean over images
                    **estimate_record(bootstrap.ratio(shared.double(), ones)),
                    "null": estimate_record(Estimate(float(null.mean()), low, high, PERMUTATIONS)),
                    "p_value": number((1 + int((null >= shared.double().mean()).sum())) / (1 + PERMUTATIONS)),
                }
            )
        return {**head, "by_depth": by_depth}
