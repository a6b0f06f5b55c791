"""The equations of arXiv 2505.10917 as literal loops in float64: what the package is compared with."""

from __future__ import annotations

import math

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


def literal_infonce(embeds: Tensor, hidden: Tensor, text: Tensor, image: Tensor, temperature: float) -> Tensor:
    """The formula of `llava_vista.objective.estimators.infonce` by loops: minus the mean over valid samples."""
    rows = [row for row in range(len(embeds)) if text[row].any() and image[row].any()]
    anchors, bags = [], []
    for row in rows:
        x = embeds[row, text[row]]
        weights = [(t / len(x)) for t in range(1, len(x) + 1)]
        bags.append(sum(weight * vector for weight, vector in zip(weights, x, strict=True)) / sum(weights))
        anchors.append(hidden[row, image[row]][-1])
    if not rows:
        return embeds.sum() * 0
    a_mean, b_mean = sum(anchors) / len(rows), sum(bags) / len(rows)
    unit = [((a - a_mean), (b - b_mean)) for a, b in zip(anchors, bags, strict=True)]
    unit = [(a / a.norm().clamp(min=1e-8), b / b.norm().clamp(min=1e-8)) for a, b in unit]
    total = 0.0
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j == i or not torch.allclose(bags[i], bags[j], rtol=0, atol=1e-9)]
        to_text = torch.stack([unit[i][0] @ unit[j][1] for j in others]) / temperature
        to_image = torch.stack([unit[j][0] @ unit[i][1] for j in others]) / temperature
        own = unit[i][0] @ unit[i][1] / temperature
        total = total + math.log(len(others)) + own - (to_text.logsumexp(0) + to_image.logsumexp(0)) / 2
    return -total / len(rows)


def literal_scores(method: str, anchors: list[Tensor], texts: list[Tensor], temperature: float) -> list[list[float]]:
    """How well text j fits image i, float64."""
    if method != "infonce":
        return [
            [float(torch.stack([literal_information(method, anchor, x) for x in text]).mean()) for text in texts]
            for anchor in anchors
        ]
    means = [text.mean(dim=0) for text in texts]
    images = [anchor - sum(anchors) / len(anchors) for anchor in anchors]
    words = [mean - sum(means) / len(means) for mean in means]
    return [[float(torch.cosine_similarity(a, b, dim=0)) / temperature for b in words] for a in images]


def literal_own_text(
    method: str, ids: Tensor, embeds: Tensor, hidden: Tensor, kind: Tensor, temperature: float = 0.1
) -> tuple[float, float, float, int]:
    """Margin, own first, chance and number of compared samples: a loop over each sample's competitors.

    Texts are equal where their ids (B, L) are, as bags. ``kind`` (B, L) is 1 at image and 0 at text.
    """
    rows = [row for row in range(len(kind)) if (kind[row] == 0).any() and (kind[row] == 1).any()]
    anchors = [hidden[row, (kind[row] == 1).nonzero()[-1, 0]].double() for row in rows]
    texts = [embeds[row, kind[row] == 0].double() for row in rows]
    size = int(ids.max()) + 1
    shares = [torch.bincount(ids[row, kind[row] == 0], minlength=size).double() for row in rows]
    scores = literal_scores(method, anchors, texts, temperature) if rows else []
    margins, firsts, chances = [], [], []
    for i in range(len(rows)):
        others = [
            scores[i][j]
            for j in range(len(rows))
            if not torch.equal(shares[i] * shares[j].sum(), shares[j] * shares[i].sum())
        ]
        if others:
            margins.append(scores[i][i] - sum(others) / len(others))
            firsts.append(float(scores[i][i] > max(others)))
            chances.append(1 / (1 + len(others)))
    count = max(1, len(margins))
    margin, first, chance = (sum(values) / count for values in (margins, firsts, chances))
    return margin, first, chance, len(margins)
