"""Alignment by position, which is what VISTA trains on: a high value after such training is no evidence.

For each text token t = 1..m of a sample: cos(S_n, x_t), -mean_d (S_n - x_t)^2, and the weight (t/m)/m that VISTA gives
it. The negative of their weighted sum is the sample's L_VISTA.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ....objective.head import last_image_state
from ....objective.weightings import linear
from ..bootstrap import Bootstrap, stack
from ..forward_trace import Trace
from ..probed_batch import ProbedBatch

NOTE = "the training target of VISTA itself: not evidence on its own"
UNITS = {"cosine": "cos(S_n, x_t)", "l2": "-mean_d (S_n - x_t)^2", "weight": "(t/m)/m, mean over samples"}


class TokenAlignment(NamedTuple):
    """One sample's m text tokens, each tensor (m,) float32: I by both estimators, and the weight of each token."""

    cosine: Tensor
    l2: Tensor
    weight: Tensor


def align(trace: Trace) -> list[TokenAlignment]:
    """Return both estimators at every text token, sample by sample."""
    anchors = last_image_state(trace.last_hidden_state, trace.layout.image).float()  # (B, d)
    aligned = []
    for anchor, embeds, text in zip(anchors, trace.inputs_embeds, trace.layout.text, strict=True):
        x = embeds[text].float()  # (m, d)
        s, m = anchor.to(x.device), len(x)
        weight = linear(torch.arange(1, m + 1, dtype=torch.float32), torch.tensor(float(m))) / m
        l2 = -(x - s).square().mean(dim=1)
        aligned.append(TokenAlignment(cosine_similarity(x, s[None], dim=1).cpu(), l2.cpu(), weight))
    return aligned


class AlignmentCurves:
    """Collects three numbers a text token."""

    def __init__(self) -> None:
        self.samples: list[TokenAlignment] = []

    def add(self, batch: ProbedBatch) -> None:
        self.samples += align(batch.trace)

    def record(self, bootstrap: Bootstrap) -> dict[str, Any]:
        curves = {name: stack([getattr(sample, name) for sample in self.samples]) for name in UNITS}
        ones = torch.ones(len(self.samples), dtype=torch.float64)
        losses = {name: -(curves[name] * curves["weight"]).nansum(dim=1) for name in ("l2", "cosine")}
        return {
            "note": NOTE,
            "position": "number of the text token (system prompt, question, template, answer), from 1",
            **{name: {"unit": unit, "curve": bootstrap.curve(curves[name]).record()} for name, unit in UNITS.items()},
            "vista_loss": {name: bootstrap.ratio(loss, ones).record() for name, loss in losses.items()},
        }
