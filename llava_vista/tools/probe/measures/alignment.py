"""Alignment by position: what VISTA trains on. That a model trained on it scores well on it is no evidence of anything.

For each text token t = 1..m of a sample: cos(S_n, x_t), -mean_d (S_n - x_t)^2, and the weight (t/m)/m that VISTA puts
there. Weighted and summed, with the sign turned, they are the sample's L_VISTA.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ....objective.head import last_image_state
from ....objective.weightings import linear
from ..bootstrap import Bootstrap, stack
from ..looking import Seen
from ..results import curve_record, estimate_record

NOTE = "the training target of VISTA itself: not evidence on its own"


class Aligned(NamedTuple):
    """One sample's m text tokens, each tensor (m,) float32: I by both estimators, and the weight of each token."""

    cosine: Tensor
    l2: Tensor
    weight: Tensor


def align(seen: Seen) -> list[Aligned]:
    """Both estimators at every text token, sample by sample; a sample without an image or text is left out."""
    anchors = last_image_state(seen.hidden, seen.layout.image).float()  # (B, d)
    found = []
    for row, (text, image) in enumerate(zip(seen.layout.text, seen.layout.image, strict=True)):
        m = int(text.sum())
        if m == 0 or not bool(image.any()):
            continue
        x = seen.embeds[row, text].float()  # (m, d)
        anchor = anchors[row].to(x.device)
        t = torch.arange(1, m + 1, dtype=torch.float32)
        found.append(
            Aligned(
                cosine_similarity(x, anchor[None], dim=1).cpu(),
                -(x - anchor).square().mean(dim=1).cpu(),
                linear(t, torch.tensor(float(m))) / m,
            )
        )
    return found


class Alignment:
    """Collects three numbers a text token."""

    def __init__(self) -> None:
        self.samples: list[Aligned] = []

    def add(self, seen: Seen) -> None:
        self.samples += align(seen)

    def record(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """The results, for the JSON."""
        ones = torch.ones(len(self.samples), dtype=torch.float64)
        losses = {
            name: torch.tensor(
                [-(getattr(sample, name) * sample.weight).double().sum() for sample in self.samples],
                dtype=torch.float64,
            )
            for name in ("l2", "cosine")
        }
        return {
            "note": NOTE,
            "position": "number of the text token (system prompt, question, template, answer), from 1",
            "cosine": {"unit": "cos(S_n, x_t)", "curve": curve_record(bootstrap.curve(self._stack("cosine")))},
            "l2": {"unit": "-mean_d (S_n - x_t)^2", "curve": curve_record(bootstrap.curve(self._stack("l2")))},
            "weight": {
                "unit": "(t/m)/m, mean over samples",
                "curve": curve_record(bootstrap.curve(self._stack("weight"))),
            },
            "vista_loss": {name: estimate_record(bootstrap.ratio(loss, ones)) for name, loss in losses.items()},
        }

    def _stack(self, name: str) -> Tensor:
        return stack([getattr(sample, name) for sample in self.samples])
