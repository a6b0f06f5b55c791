"""By how much the loss is divided already: measured on the model's logits, else by the trainer's own rule."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from llava_vista.hooks.accumulation import LossScale, mean_cross_entropy

LABELS = torch.tensor([[-100, 3, 1, 2, -300], [4, 0, -100, -100, 1]])
ITEMS = 20  # supervised tokens of the window; this micro-batch has 5


class Model(torch.nn.Module):
    def forward(self, logits: Tensor) -> dict[str, Tensor]:
        return {"logits": logits}


def make_trainer(steps: int = 4, **attributes: Any) -> SimpleNamespace:
    arguments = SimpleNamespace(gradient_accumulation_steps=steps, torch_compile=False, world_size=1)
    given = {"model_accepts_loss_kwargs": True, "model": Model(), "args": arguments}
    return SimpleNamespace(**{**given, **attributes})


@pytest.fixture
def logits() -> Iterator[Tensor]:
    yield torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)) * 2


def divisor(trainer: SimpleNamespace, loss: float, logits: Tensor, items: Any = ITEMS) -> float:
    scale = LossScale(trainer)
    scale.before_loss()
    trainer.model(logits)
    measured = float(scale.divisor(torch.tensor(float(loss)), LABELS, items))
    scale.settle()
    assert float(scale.divisor(torch.tensor(float(loss)), LABELS, items)) == measured
    scale.remove()
    assert not trainer.model._forward_hooks
    return measured


def test_mean_cross_entropy_equals_a_loop(logits: Tensor) -> None:
    terms = [
        -float(logits[row, at].double().log_softmax(-1)[LABELS[row, at + 1]])
        for row in range(2)
        for at in range(4)
        if LABELS[row, at + 1] >= 0
    ]
    mean, count = mean_cross_entropy(logits, LABELS)
    assert count == len(terms) == 5
    assert mean == pytest.approx(sum(terms) / 5, abs=1e-6)


@pytest.mark.parametrize("announces", [True, False], ids=["taken for divided", "taken for a mean"])
@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, 1.0), (5 / ITEMS, 4.0), (1 / 4, 4.0)],
    ids=["mean", "sum over num_items", "divided by the window"],
)
def test_the_loss_decides_and_not_the_attribute(
    logits: Tensor, factor: float, expected: float, announces: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(model_accepts_loss_kwargs=announces)
    with caplog.at_level("WARNING", logger="llava_vista"):
        assert divisor(trainer, mean_cross_entropy(logits, LABELS)[0] * factor, logits) == expected
    ignored = announces and expected == 1
    assert ("Model takes num_items_in_batch and does not use it" in caplog.text) == ignored


@pytest.mark.parametrize(
    ("attributes", "items", "expected"),
    [
        ({"steps": 1}, 7, 1),
        ({"model_accepts_loss_kwargs": False}, None, 1),
        ({"loss_is_scaled_for_ga": True}, 7, 4),
        ({"loss_is_scaled_for_ga": False}, 7, 1),
        ({"current_gradient_accumulation_steps": 3, "loss_is_scaled_for_ga": True}, 7, 3),
        # TRL's GRPO divides by itself, and says so by this
        ({"model_accepts_loss_kwargs": False, "compute_loss_func": "non-None value to disable scaling"}, None, 4),
    ],
)
def test_a_loss_that_tells_nothing_leaves_it_to_the_trainers_rule(attributes: dict, items: Any, expected: int) -> None:
    scale = LossScale(make_trainer(**attributes))
    scale.before_loss()
    assert scale.divisor(torch.tensor(123.0), None, items) == expected
    scale.remove()


def test_a_partial_window_is_counted(logits: Tensor) -> None:
    """transformers 4.46 to 4.54 keep args.gradient_accumulation_steps as it is in the last window of an epoch."""
    trainer = make_trainer(get_batch_samples=lambda iterator, count: ([next(iterator) for _ in range(2)], 10))
    before = trainer.get_batch_samples
    scale = LossScale(trainer)
    trainer.get_batch_samples(iter(range(2)), 4)
    assert scale.window == 2
    assert scale.divisor(torch.tensor(1.0), None, 10) == 2
    scale.remove()
    assert trainer.get_batch_samples is before
