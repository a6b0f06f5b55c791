"""The layout of sequences with one placeholder token per image row."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..layout import SequenceLayout


def among(ids: Tensor, tokens: Iterable[int]) -> Tensor:
    """Return where ``ids`` are one of ``tokens``. Comparisons with plain numbers: nothing is sent to the device."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for token in tokens:
        found = found | (ids == token)
    return found


def from_placeholders(
    input_ids: Tensor,
    attended: Tensor,
    labels: Tensor | None,
    image_ids: tuple[int, ...],
    other_ids: tuple[int, ...] = (),
) -> SequenceLayout:
    """The layout of a sequence in which one placeholder token stands for each image row.

    Args:
        input_ids: (B, L).
        attended: (B, L) bool, no padding.
        labels: (B, L), negative where not supervised; None leaves the answer unknown.
        image_ids: of image and video tokens.
        other_ids: of tokens for other modalities; they are neither text nor image.
    """
    image = attended & among(input_ids, image_ids)
    text = attended & ~image & ~among(input_ids, other_ids)
    answer = None if labels is None or labels.shape != input_ids.shape else text & (labels >= 0)
    return SequenceLayout(text=text, image=image, answer=answer)
