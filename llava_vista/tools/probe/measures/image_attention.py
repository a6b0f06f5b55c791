"""Attention on image tokens: the share of a text token's attention, mean over heads, by layer and text position.

Text before the image cannot attend to it and is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..bootstrap import Bootstrap, stack
from ..probed_batch import ProbedBatch


class ImageAttention:
    """Collects, of each sample, one number per layer and text token, and the number of image tokens."""

    def __init__(self) -> None:
        #: per sample (layers, m), NaN at text before the image
        self.mass: list[Tensor] = []
        self.image_tokens: list[int] = []

    def add(self, batch: ProbedBatch) -> None:
        layout = batch.trace.layout
        for row, (text, image) in enumerate(zip(layout.text, layout.image, strict=True)):
            mass = torch.stack([layer[row, text.to(layer.device)].cpu() for layer in batch.trace.attention])
            mass[:, : int(text[: int(image.int().argmax())].sum())] = torch.nan
            self.mass.append(mass)
            self.image_tokens.append(int(image.sum()))

    def record(self, bootstrap: Bootstrap) -> dict[str, Any]:
        size = torch.tensor(self.image_tokens, dtype=torch.float64)[:, None]  # (N, 1)
        layers = [stack([sample[layer] for sample in self.mass]) for layer in range(len(self.mass[0]))]  # (N, T) each

        def both(values: Tensor) -> dict[str, Any]:
            parts = {"total": values, "per_image_token": values / size}
            return {name: bootstrap.curve(part).record() for name, part in parts.items()}

        return {
            "unit": "share of a text token's attention, mean over heads",
            "position": "number of the text token, from 1; text before the image is left out",
            "image_tokens": {
                "mean": float(size.mean()),
                "min": min(self.image_tokens),
                "max": max(self.image_tokens),
            },
            "by_layer": both(torch.stack([values.nanmean(dim=1) for values in layers], dim=1)),  # (N, layers)
            "by_position": both(torch.stack(layers).mean(dim=0)),
            "by_layer_and_position": [both(values) for values in layers],
        }
