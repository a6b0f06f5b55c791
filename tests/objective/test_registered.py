"""Estimators and weightings that other packages register."""

from __future__ import annotations

import pytest
import torch
from objective_checks import random_case

from llava_vista import (
    ConfigError,
    RegistryError,
    SequenceLayout,
    VistaConfig,
    register_estimator,
    register_weighting,
    vista_loss,
)
from llava_vista.config import ESTIMATORS, WEIGHTINGS
from llava_vista.objective import AlignmentHead


def test_third_parties_extend_both_registries() -> None:
    @register_estimator("dot")
    def dot(anchors, bag):
        return (anchors * bag.vector).sum(-1)

    @register_weighting("first_half")
    def first_half(t, m):
        return (t <= m / 2).float()

    try:
        embeds, hidden, kind, _ = random_case(6, 2, 20, 6)
        kind[:, :2] = torch.tensor([0, 1])
        config = VistaConfig(method="dot", position_weighting="first_half")
        loss = vista_loss(embeds, hidden, SequenceLayout(kind == 0, kind == 1), config)
        expected = []
        for row in range(2):
            text, anchor = embeds[row, kind[row] == 0], hidden[row, kind[row] == 1][-1]
            expected.append(-(text[: len(text) // 2] @ anchor).sum() / len(text))
        assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)
        with pytest.raises(RegistryError, match="'dot' is already registered"):
            register_estimator("dot")(dot)
    finally:
        ESTIMATORS.remove("dot")
        WEIGHTINGS.remove("first_half")


def divides(anchors, bag):
    return (anchors * bag.vector / bag.weight[:, None].float()).sum(-1)


def writes(anchors, bag):
    vector, weight = bag.vector.clone(), bag.weight.clone()
    bag.vector.zero_(), bag.square_norm.fill_(7), bag.weight.zero_()
    with torch.no_grad():
        anchors.zero_()
    return (anchors + 1) @ torch.ones_like(vector[0]) + vector.sum(-1) + weight


@pytest.mark.parametrize("estimator", [divides, writes])
def test_estimators_of_ones_own_harm_no_other_part(estimator) -> None:
    """They may write into what they get, and need no finite derivative where a sample is not aligned."""
    embeds, hidden, kind, _ = random_case(6, 3, 20, 6)
    kind[:, :2] = torch.tensor([0, 1])
    kind[1] = 0  # text only
    embeds.requires_grad_(), hidden.requires_grad_()
    layout = SequenceLayout(kind == 0, kind == 1)
    register_estimator("own")(estimator)
    register_weighting("half")(lambda t, m: t / m / 2)
    register_weighting("writes")(lambda t, m: (t.div_(m), m.add_(3), t.div_(2))[2])
    try:
        terms = AlignmentHead(VistaConfig(method="own"))(embeds, hidden, layout)
        gradients = torch.autograd.grad(terms.loss, [embeds, hidden])
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert (gradients[0][1] == 0).all() and (gradients[1][1] == 0).all() and (gradients[0][0] != 0).any()
        assert terms.loss.isfinite() and terms.own.margin.isfinite()
        half, written = (
            vista_loss(embeds, hidden, layout, VistaConfig(position_weighting=name)) for name in ("half", "writes")
        )
        assert written.item() == half.item()
    finally:
        ESTIMATORS.remove("own")
        WEIGHTINGS.remove("half")
        WEIGHTINGS.remove("writes")


@pytest.mark.parametrize(
    ("estimator", "weighting", "message"),
    [
        (lambda anchors, bag: anchors.detach().sum(-1), None, "without a gradient .* detached or rounded"),
        (lambda anchors, bag: anchors.sum(-1).round().long(), None, r"without a gradient \(torch.int64\)"),
        (None, lambda t, m: t[0], r"returned \(20,\); \(B, L\) = \(2, 20\)"),
        (None, lambda t, m: None, "returned NoneType None"),
        (None, lambda t, m: [1, 2], r"returned list \[1, 2\]"),
    ],
)
def test_what_an_estimator_or_weighting_may_not_return(estimator, weighting, message: str) -> None:
    embeds, hidden, kind, _ = random_case(6, 2, 20, 6)
    kind[:, :2] = torch.tensor([0, 1])
    register_estimator("own")(estimator or divides)
    register_weighting("own")(weighting or (lambda t, m: t))
    try:
        with pytest.raises(ConfigError, match=message):
            vista_loss(
                embeds,
                hidden.requires_grad_(),
                SequenceLayout(kind == 0, kind == 1),
                VistaConfig(method="own", position_weighting="own"),
            )
    finally:
        ESTIMATORS.remove("own")
        WEIGHTINGS.remove("own")


def test_a_constant_is_allowed_where_no_sample_is_aligned() -> None:
    embeds, hidden, kind, _ = random_case(6, 2, 20, 6)
    layout = SequenceLayout(torch.ones_like(kind, dtype=torch.bool), torch.zeros_like(kind, dtype=torch.bool))
    register_estimator("own")(lambda anchors, bag: anchors.new_zeros(len(anchors)))
    try:
        assert vista_loss(embeds, hidden.requires_grad_(), layout, VistaConfig(method="own")) == 0
    finally:
        ESTIMATORS.remove("own")
