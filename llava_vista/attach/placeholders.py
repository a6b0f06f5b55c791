"""The layout of sequences with one placeholder token per image row."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LayoutError
from ..layout import SequenceLayout


def from_placeholders(
    input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None, placeholder_ids: tuple[int, ...]
) -> SequenceLayout:
    """The layout of a sequence in which one placeholder token stands for each image row.

    Args:
        input_ids: (B, L).
        attention_mask: (B, L), nonzero where attended; None attends to everything.
        labels: (B, L), negative where not supervised; None leaves the answer unknown.
        placeholder_ids: of image and video tokens.

    Raises:
        LayoutError: the mask is not (B, L).
    """
    if attention_mask is None:
        attended = torch.ones_like(input_ids, dtype=torch.bool)
    elif attention_mask.shape == input_ids.shape:
        attended = attention_mask.bool()
    else:
        raise LayoutError(
            f"attention_mask {tuple(attention_mask.shape)} does not tell which of input_ids {tuple(input_ids.shape)} "
            "are padding; a (B, L) mask was expected."
        )
    placeholder = torch.zeros_like(attended)
    for token in placeholder_ids:  # comparisons with plain numbers: nothing is sent to the device
        placeholder = placeholder | (input_ids == token)
    text = attended & ~placeholder
    answer = None if labels is None or labels.shape != input_ids.shape else text & (labels >= 0)
    return SequenceLayout(text=text, image=attended & placeholder, answer=answer)
