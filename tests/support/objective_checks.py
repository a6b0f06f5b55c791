"""What several tests check of the objective, whatever reads the rows: PyTorch in one way or another, or Triton."""

from __future__ import annotations

import torch
from literal import literal_vista

from llava_vista import SequenceLayout, VistaConfig
from llava_vista.objective import AlignmentHead

METHODS = ("l2", "cosine")


def random_case(
    seed: int, batch: int, length: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(batch, length, width, generator=generator)
    hidden = torch.randn(batch, length, width, generator=generator)
    kind = torch.randint(-1, 2, (batch, length), generator=generator)
    answer = torch.rand(batch, length, generator=generator) < 0.5
    return embeds, hidden, kind, answer & (kind == 0)


def equals_a_literal_loop(batch: int, length: int, width: int, method: str, weighting: str, scope: str) -> None:
    """Values and gradients are those of the equations in float64."""
    embeds, hidden, kind, answer = random_case(batch * length, batch, length, width)
    exact = [tensor.double().requires_grad_() for tensor in (embeds, hidden)]
    inputs = [tensor.clone().requires_grad_() for tensor in (embeds, hidden)]
    layout = SequenceLayout(text=kind == 0, image=kind == 1, answer=answer)
    config = VistaConfig(method=method, position_weighting=weighting, text_scope=scope)
    terms = AlignmentHead(config)(*inputs, layout)
    terms.loss.backward()
    expected, similarity = literal_vista(
        *exact, answer if scope == "answer" else kind == 0, kind == 1, method, weighting
    )
    expected.backward()
    assert abs(terms.loss.item() - expected.item()) < 1e-6
    assert abs(terms.similarity.item() - similarity.item()) < 1e-6
    for ours, theirs in zip(inputs, exact, strict=True):
        wanted = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
        assert (ours.grad.double() - wanted).abs().max() < 1e-6


def rows_without_weight_do_not_count(method: str, scope: str, dtype: torch.dtype, bad: float) -> None:
    """Whatever stands at image and padding positions, and at text out of scope: the same numbers, bit for bit."""
    embeds, hidden, kind, answer = random_case(7, 3, 90, 16)
    kind[:, 0] = 1
    layout = SequenceLayout(kind == 0, kind == 1, answer)
    counts = answer if scope == "answer" else kind == 0
    results = []
    for value in (0.0, bad):
        inputs = [embeds.masked_fill(~counts[..., None], value).to(dtype).requires_grad_(), hidden.to(dtype)]
        inputs[1].requires_grad_()
        terms = AlignmentHead(VistaConfig(method=method, text_scope=scope))(*inputs, layout)
        terms.loss.backward()
        assert terms.loss.isfinite()
        results.append((terms.loss, terms.similarity, *(tensor.grad for tensor in inputs)))
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*results, strict=True))
    assert results[0][2][~counts].abs().max() == 0
    assert results[0][2][counts].abs().max() > 0
