"""The equations of arXiv 2505.10917 as literal loops in float64: what the package is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def literal_information(method: str, anchor: Tensor, text: Tensor) -> Tensor:
    """I(x_t, S_n) of one token."""
    if method == "l2":
        return -((anchor - text) ** 2).mean()
    if method == "cosine":
        return (anchor @ text) / (anchor.norm() * text.norm())
    raise ValueError(method)


def literal_vista(
    inputs_embeds: Tensor, hidden: Tensor, text: Tensor, image: Tensor, method: str, weighting: str = "linear"
) -> tuple[Tensor, Tensor]:
    """(L_VISTA, unweighted mean of I), averaged over samples with image and text."""
    losses, similarities = [], []
    for row in range(text.shape[0]):
        text_positions = text[row].nonzero().flatten().tolist()
        image_positions = image[row].nonzero().flatten().tolist()
        if not text_positions or not image_positions:
            continue
        anchor = hidden[row, image_positions[-1]]
        m = len(text_positions)
        loss, similarity = inputs_embeds.new_zeros(()), inputs_embeds.new_zeros(())
        for t, position in enumerate(text_positions, start=1):
            information = literal_information(method, anchor, inputs_embeds[row, position])
            loss = loss - (t / m if weighting == "linear" else 1.0) * information / m
            similarity = similarity + information / m
        losses.append(loss)
        similarities.append(similarity)
    if not losses:
        return hidden.sum() * 0, hidden.sum() * 0
    return torch.stack(losses).mean(), torch.stack(similarities).mean()
