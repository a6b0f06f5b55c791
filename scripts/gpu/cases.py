"""The cases that every part shares: random tensors with a layout, and their exact loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from literal import literal_infonce
from published import Spans, published_vista
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss

from llava_vista import AlignmentHead, SequenceLayout, VistaConfig

#: (B, L, d), from a short sequence to a large step of a 7B model; the reference is the one that goals name.
SHAPES = ((1, 256, 512), (2, 512, 1024), (4, 1024, 2048), (8, 1024, 4096), (16, 2048, 4096))
REFERENCE = (8, 1024, 4096)
METHODS = ("l2", "cosine", "infonce")
PUBLISHED = ("l2", "cosine")


class Case(NamedTuple):
    """inputs_embeds, hidden (B, L, d); layout; images and lengths as `published_vista` wants them."""

    inputs_embeds: Tensor
    hidden: Tensor
    layout: SequenceLayout
    images: list[Spans]
    lengths: list[int]

    def leaves(self) -> list[Tensor]:
        """Return the tensors that get a gradient."""
        return [tensor for tensor in (self.hidden, self.inputs_embeds) if tensor.requires_grad]

    def clear(self) -> None:
        """Remove the gradients."""
        self.inputs_embeds.grad = self.hidden.grad = None

    def step(self, loss: Callable[[str], Tensor], method: str, scale: float = 1.0) -> None:
        """Compute the gradients of a loss, such as `ours`, times ``scale``."""
        self.clear()
        (loss(method) * scale).backward()

    def gradients(self, loss: Callable[[str], Tensor], method: str) -> Tensor:
        """Return all gradients as one float64 vector, scaled as a loss scaler does: float16 has no 1e-8."""
        self.step(loss, method, 2.0**14)
        return torch.cat([leaf.grad.double().flatten() for leaf in self.leaves() if leaf.grad is not None])

    def ours(self, method: str) -> Tensor:
        """Return L_VISTA by this package."""
        return AlignmentHead(VistaConfig(method=method))(self.inputs_embeds, self.hidden, self.layout).loss

    def published(self, method: str) -> Tensor:
        """Return L_VISTA by the published arithmetic."""
        return published_vista(self.inputs_embeds, self.hidden, self.images, self.lengths, method)

    def exact(self, method: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the equation, elementwise in ``dtype``, weighted and summed in float64."""
        embeds, hidden, losses = self.inputs_embeds.to(dtype), self.hidden.to(dtype), []
        if method == "infonce":
            return literal_infonce(embeds, hidden, self.layout.text, self.layout.image, VistaConfig().temperature)
        for sample in range(len(self.lengths)):
            text = embeds[sample, self.layout.text[sample]]  # (m, d)
            anchor = hidden[sample, self.layout.image[sample]][-1].expand_as(text)
            if method == "l2":
                information = -mse_loss(anchor, text, reduction="none").double().mean(dim=1)
            else:
                information = cosine_similarity(anchor, text, dim=-1).double()
            t = torch.arange(1, len(text) + 1, device=text.device, dtype=torch.float64)
            losses.append(-(information * t).mean() / len(text))
        return torch.stack(losses).mean()


def make_case(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: str,
    *,
    trained: bool,
    spans: Spans | None = None,
    length: int | None = None,
    scale: float = 1.0,
) -> Case:
    """Return random tensors, with the same images in every sample.

    Args:
        shape: (B, L, d).
        trained: the embeddings get a gradient, too.
        spans: (start, stop) of each image; LLaVA-1.5's one of 576 positions (less in a short sequence) when None.
        length: without padding; L when None.
        scale: factor on the embeddings.
    """
    batch, full, _ = shape
    start, length = min(35, full // 8), length or full
    spans = [(start, start + min(576, full * 9 // 16))] if spans is None else spans
    embeds, hidden = torch.randn(shape, device=device) * scale, torch.randn(shape, device=device)
    image = torch.zeros(batch, full, dtype=torch.bool, device=device)
    for first, last in spans:
        image[:, first:last] = True
    text = ~image & (torch.arange(full, device=device) < length)
    embeds, hidden = embeds.to(dtype).requires_grad_(trained), hidden.to(dtype).requires_grad_()
    return Case(embeds, hidden, SequenceLayout(text=text, image=image), [spans] * batch, [length] * batch)
