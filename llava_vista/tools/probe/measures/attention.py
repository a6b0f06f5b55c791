"""Attention mass on image tokens: how much of a text token's attention goes to the image, by layer and text position.

Text before the image cannot attend to it and is left out. Mean over heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..bootstrap import Bootstrap, stack
from ..looking import Seen
from ..results import curve_record


class Attention:
    """Collects, of each sample, one number per layer and text token."""

    def __init__(self) -> None:
        #: per sample (layers, m), NaN at text before the image
        self.mass: list[Tensor] = []
        #: per sample, how many tokens its image has
        self.image_tokens: list[int] = []

    def add(self, seen: Seen) -> None:
        for row, (text, image) in enumerate(zip(seen.layout.text, seen.layout.image, strict=True)):
            mass = torch.stack([layer[row, text.to(layer.device)].cpu() for layer in seen.attention])  # (layers, m)
            first = int(image.int().argmax())
            before = text[:first].sum()
            mass[:, : int(before)] = torch.nan
            self.mass.append(mass)
            self.image_tokens.append(int(image.sum()))

    def record(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """The results, for the JSON."""
        size = torch.tensor(self.image_tokens, dtype=torch.float64)[:, None]  # (N, 1)
        layers = [stack([sample[layer] for sample in self.mass]) for layer in range(len(self.mass[0]))]  # (N, T) each
        by_layer = torch.stack([values.nanmean(dim=1) for values in layers], dim=1)  # (N, layers)
        by_position = torch.stack(layers).mean(dim=0)  # (N, T)
        return {
            "unit": "share of a text token's attention, mean over heads",
            "position": "number of the text token, from 1; text before the image is left out",
            "image_tokens": {
                "mean": float(size.mean()),
                "min": min(self.image_tokens),
                "max": max(self.image_tokens),
            },
            "by_layer": self._both(bootstrap, by_layer, size),
            "by_position": self._both(bootstrap, by_position, size),
            "by_layer_and_position": [self._both(bootstrap, values, size) for values in layers],
        }

    @staticmethod
    def _both(bootstrap: Bootstrap, values: Tensor, size: Tensor) -> dict[str, Any]:
        """Total mass, and mass per image token, of (N, T) values."""
        return {
            "total": curve_record(bootstrap.curve(values)),
            "per_image_token": curve_record(bootstrap.curve(values / size)),
        }
