"""Margin and own first against a literal float64 loop, and at their edges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import literal_own_text
from torch import Tensor

from llava_vista import SequenceLayout, VistaConfig, register_estimator
from llava_vista.config import ESTIMATORS
from llava_vista.layout import Span
from llava_vista.objective import AlignmentHead, TextBag
from llava_vista.objective.own_text import OwnText

VOCABULARY, WIDTH = 9, 24


def measured(method: str, embeds: Tensor, hidden: Tensor, kind: Tensor) -> OwnText:
    layout = SequenceLayout(text=kind == 0, image=kind == 1)
    return AlignmentHead(VistaConfig(method=method))(embeds, hidden, layout).own


@pytest.fixture
def dot() -> Iterator[str]:
    """An estimator of somebody else's: no scores, other units."""

    @register_estimator("dot")
    def information(anchors: Tensor, bag: TextBag) -> Tensor:
        return (anchors * bag.vector).sum(dim=-1) + bag.weight

    yield "dot"
    ESTIMATORS.remove("dot")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 6), length=st.integers(2, 9))
@pytest.mark.parametrize("method", ["l2", "cosine", "infonce"])
def test_equals_a_literal_loop_on_mixed_batches(method: str, seed: int, batch: int, length: int) -> None:
    """Rows of text, image and padding in any order; some without either, some with the same text."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(VOCABULARY, WIDTH, generator=generator)
    ids = torch.randint(0, VOCABULARY, (batch, length), generator=generator)
    kind = torch.randint(-1, 2, (batch, length), generator=generator)
    if batch > 2 and seed % 2:
        ids[1], kind[1] = ids[0], kind[0]
    embeds, hidden = table[ids], torch.randn(batch, length, WIDTH, generator=generator)
    embeds[kind == -1] = torch.nan
    found = measured(method, embeds, hidden, kind)
    margin, own_first, chance, compared = literal_own_text(method, ids, embeds, hidden, kind)
    assert found.compared == compared
    assert found.chance == pytest.approx(chance, abs=1e-6)
    assert found.margin == pytest.approx(margin, abs=2e-5 if method == "infonce" else 1e-6)
    assert found.own_first == pytest.approx(own_first, abs=1e-6)


@pytest.mark.parametrize("method", ["l2", "cosine", "infonce"])
def test_samples_that_share_a_row_are_compared(method: str) -> None:
    """Packing: four samples in two rows are four rows, also those of one row with each other."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(0, VOCABULARY, (4, 6), generator=generator)
    embeds, hidden = torch.randn(VOCABULARY, WIDTH, generator=generator)[ids], torch.randn(4, 6, WIDTH)
    kind = torch.zeros(4, 6).long()
    kind[:, 1:3] = 1
    packed = [tensor.unflatten(0, (2, 2)).flatten(1, 2) for tensor in (embeds, hidden, kind)]
    spans = tuple(Span(row, start, start + 6) for row in (0, 1) for start in (0, 6))
    layout = SequenceLayout(text=packed[2] == 0, image=packed[2] == 1, spans=spans)
    found = AlignmentHead(VistaConfig(method=method))(packed[0], packed[1], layout).own
    wanted = literal_own_text(method, ids, embeds, hidden, kind)
    assert [float(value) for value in found] == pytest.approx(wanted, abs=1e-5)


def test_an_estimator_without_scores_is_called_with_every_pair(dot: str) -> None:
    generator = torch.Generator().manual_seed(1)
    embeds, hidden = torch.randn(2, 5, 7, WIDTH, generator=generator)
    kind = torch.zeros(5, 7).long()
    kind[:4, 1] = 1
    scores = hidden[:4, 1].double() @ embeds[:4].double()[:, [0, 2, 3, 4, 5, 6]].mean(dim=1).T
    others = (scores.sum(dim=1) - scores.diagonal()) / 3
    found = measured(dot, embeds, hidden, kind)
    assert found.compared == 4
    assert found.margin == pytest.approx(float((scores.diagonal() - others).mean()), abs=1e-5)
    assert found.own_first == pytest.approx(float((scores.argmax(dim=1) == torch.arange(4)).float().mean()))


@pytest.mark.parametrize("method", ["l2", "cosine", "infonce"])
def test_an_image_state_that_knows_its_text_ranks_it_first(method: str) -> None:
    generator = torch.Generator().manual_seed(2)
    # of one length: l2 also prefers texts with small embeddings, whatever the image
    embeds = torch.nn.functional.normalize(torch.randn(4, 6, WIDTH, generator=generator), dim=-1)
    kind = torch.tensor([[1, 0, 0, 0, 0, 0]] * 4)
    hidden = embeds[:, 1:].mean(dim=1, keepdim=True).expand(-1, 6, -1)
    found = measured(method, embeds, hidden, kind)
    assert (float(found.own_first), float(found.chance), float(found.compared)) == (1.0, 0.25, 4.0)
    assert found.margin > 0


@pytest.mark.parametrize("method", ["cosine", "infonce"])
def test_a_constant_image_state_is_at_chance(method: str) -> None:
    """With S = 0 all texts tie; the loss could still fall by what all samples share."""
    embeds = torch.randn(4, 6, WIDTH, generator=torch.Generator().manual_seed(3))
    kind = torch.tensor([[1, 0, 0, 0, 0, 0]] * 4)
    found = measured(method, embeds, torch.zeros(4, 6, WIDTH), kind)
    assert float(found.margin) == 0
    assert found.own_first == pytest.approx(float(found.chance))
