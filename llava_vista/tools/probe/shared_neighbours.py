"""Neighbourhood agreement: are images that the vision tower places close together also close in the language model?

Mutual k-nearest-neighbour alignment (Huh et al., arXiv 2405.07987): the share of an image's k nearest neighbours, by
cosine, that two representations have in common, averaged over images. By chance it is about k/(N-1); the null
distribution is measured by pairing the images of one side with those of the other at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .bootstrap import Bootstrap, Estimate, percentile_interval

K, PERMUTATIONS = 10, 200
OWN_TOWER = "the checkpoint's own, before the projector, mean over its positions"


def neighbours(features: Tensor, k: int) -> Tensor:
    """Return (N, N) float32 zeros and ones: k ones a row, at the nearest of features (N, d) by cosine after centring.

    Centring removes the direction that all images share, which says nothing about which are alike.
    """
    unit = normalize(features.float() - features.float().mean(dim=0), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    return torch.zeros_like(similarity).scatter_(1, similarity.topk(k, dim=1).indices, 1.0)


def agreement(left: Tensor, right: Tensor) -> Tensor:
    """Return (N,) the share of neighbours in common of two results of `neighbours`."""
    return (left * right).sum(dim=1) / left.sum(dim=1)


def permutation_null(left: Tensor, right: Tensor, permutations: int, seed: int) -> Tensor:
    """Return (permutations,) the mean agreement when the two sides are paired at random."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(right), generator=generator) for _ in range(permutations)]
    return torch.stack([agreement(left, right[order][:, order]).mean() for order in orders])


class SharedNeighbours:
    """Collects, of each distinct image, one vector per layer boundary and one of the vision model named ``tower``."""

    def __init__(self, resamples: int, seed: int, tower: str = OWN_TOWER) -> None:
        self.resamples, self.seed, self.tower = resamples, seed, tower
        #: by image: (layers + 1, d) and (d_vision,)
        self.vectors: dict[Path, tuple[Tensor, Tensor]] = {}

    def add(self, images: Sequence[Path], states: Sequence[Tensor], features: Tensor) -> None:
        """Add B images: their states at each layer boundary (B, d), and the tower's features (B, d_vision)."""
        for row, image in enumerate(images):
            # A second copy of an image would be the nearest neighbour of the first in both representations.
            if image not in self.vectors:
                inside = torch.stack([state[row].cpu() for state in states])
                self.vectors[image] = (inside, features[row].float().cpu())

    def record(self) -> dict[str, Any]:
        """Return the agreement at each depth with its null distribution, for the JSON."""
        count = len(self.vectors)
        k = min(K, (count - 1) // 2)
        head = {"measure": "mutual k-nearest neighbours, cosine", "tower": self.tower, "k": k, "images": count}
        if k < 1:
            return {**head, "by_depth": [], "note": f"too few images for neighbours ({count}; at least 3 are needed)"}
        states, tower = (torch.stack(vectors) for vectors in zip(*self.vectors.values(), strict=True))
        bootstrap, outside = Bootstrap(count, self.resamples, self.seed), neighbours(tower, k)
        by_depth = []
        for vectors in states.unbind(dim=1):
            inside = neighbours(vectors, k)
            shared = agreement(inside, outside).double()
            null = permutation_null(inside, outside, PERMUTATIONS, self.seed).double()
            low, high = map(float, percentile_interval(null))
            # Neighbours are found once, among all images: the interval is that of a mean over images.
            (mean,) = bootstrap.ratios((shared, torch.ones_like(shared)))
            by_depth.append({
                **mean.record(),
                "null": Estimate(float(null.mean()), low, high, PERMUTATIONS).record(),
                "p_value": (1 + int((null >= shared.mean()).sum())) / (1 + PERMUTATIONS),
            })  # fmt: skip
        return {**head, "depth": list(range(len(by_depth))), "by_depth": by_depth}
