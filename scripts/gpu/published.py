"""What VISTA costs as it was published: the arithmetic of the released LLaVA code, in our own words.

Kept from it is what takes time and memory: a (B, L, d) float32 buffer with the image embeddings, zero elsewhere, whose
rows are summed to find the image positions; the hidden states of all of these, gathered and in float32; each sample's
text embeddings as a tensor of its own; a loop over the samples with an elementwise (m, d) difference; reading numbers
on the host. Left out are its prints, its own cross-entropy and the gather of the buffer's rows, which nothing uses. The
weight is t/m for both estimators (there, cosine's is t).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

#: (start, stop) of each image of a sample, in order.
Spans = list[tuple[int, int]]


def image_buffer(inputs_embeds: Tensor, images: list[Spans]) -> Tensor:
    """(B, L, d) float32: image embeddings at their positions, zeros elsewhere."""
    buffer = torch.zeros(inputs_embeds.shape, dtype=torch.float32, device=inputs_embeds.device)
    with torch.no_grad():  # generous: there, autograd follows these copies
        for sample, spans in enumerate(images):
            for start, stop in spans:
                buffer[sample, start:stop] = inputs_embeds[sample, start:stop].float()
    return buffer


def text_of(inputs_embeds: Tensor, images: list[Spans], lengths: list[int]) -> list[Tensor]:
    """Each sample's text embeddings, (m, d)."""
    texts = []
    for row, spans, length in zip(inputs_embeds.unbind(0), images, lengths, strict=True):
        cuts = [0, *(edge for span in spans for edge in span), length, len(row)]
        pieces = row.split([stop - start for start, stop in pairwise(cuts)])
        texts.append(torch.cat(pieces[:-1:2]))  # text, image, text, ..., text, padding
    return texts


def published_vista(
    inputs_embeds: Tensor, hidden: Tensor, images: list[Spans], lengths: list[int], method: str
) -> Tensor:
    """L_VISTA.

    Args:
        inputs_embeds: (B, L, d).
        hidden: (B, L, d).
        images: where each sample's images are; the same number of positions in every sample, as the method needs.
        lengths: each sample's length, without padding on the right.
        method: "l2" or "cosine".
    """
    texts = text_of(inputs_embeds, images, lengths)
    mask = image_buffer(inputs_embeds, images).sum(dim=-1) != 0  # (B, L)
    states = hidden[mask].float().reshape(len(texts), -1, hidden.shape[-1])  # (B, n, d)
    loss = torch.zeros((), device=hidden.device)
    similarity = torch.zeros((), device=hidden.device)
    for sample, text in enumerate(texts):
        m = len(text)
        anchor = states[sample, -1].unsqueeze(0).expand_as(text)  # (m, d)
        if method == "l2":
            each = mse_loss(anchor, text, reduction="none").float().mean(dim=1)  # (m,)
        else:
            each = -cosine_similarity(anchor, text, dim=-1).float()  # (m,)
        similarity = similarity + each.sum() / m
        position = torch.arange(1, m + 1, device=hidden.device, dtype=torch.float32) / m
        loss = loss + (each * position).mean()
    loss = loss / len(texts)
    loss.item(), similarity.item()
    return loss
