"""By how much the cross-entropy is divided already: asked of the trainer, and of what the model does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llava_vista.hooks.accumulation import Divisor


def trainer(steps: int = 4, **attributes) -> SimpleNamespace:
    arguments = SimpleNamespace(gradient_accumulation_steps=steps, torch_compile=False)
    given = {"model_accepts_loss_kwargs": True, "model": torch.nn.Linear(1, 1), "args": arguments}
    return SimpleNamespace(**{**given, **attributes})


def sum_over(number):
    return torch.tensor([3.0, 4.0], requires_grad=True).sum() / number


@pytest.mark.parametrize("number", [7, torch.tensor(7)], ids=["int", "tensor"])
@pytest.mark.parametrize(
    "use",
    [sum_over, lambda number: sum_over(getattr(number, "to", lambda _: number)("cpu")), lambda number: float(number)],
    ids=["divided", "moved and divided", "read"],
)
def test_a_number_that_is_used(number, use) -> None:
    divisor = Divisor(trainer())
    watched = divisor.watch(number)
    result = use(watched)
    assert type(result) in (torch.Tensor, float)
    assert torch.equal(torch.as_tensor(result), torch.as_tensor(use(number)))
    assert divisor.value(number) == 4
    assert divisor.watch(number) is number  # asked once


@pytest.mark.parametrize("number", [7, torch.tensor(7)], ids=["int", "tensor"])
def test_a_number_that_is_not_used(number, caplog) -> None:
    """The model takes it among its keywords, and divides by its own number of tokens."""
    divisor = Divisor(trainer())
    watched = divisor.watch(number)
    assert watched is not None and watched.device == torch.device("cpu") and watched.to("cpu").ndim == 0
    with caplog.at_level("WARNING", logger="llava_vista"):
        assert divisor.value(number) == divisor.value(number) == 1
    assert caplog.text.count("Linear takes num_items_in_batch and does not use it") == 1


@pytest.mark.parametrize(
    ("attributes", "number", "expected"),
    [
        ({"steps": 1}, 7, 1),
        ({"model_accepts_loss_kwargs": False}, None, 1),
        ({"loss_is_scaled_for_ga": True}, 7, 4),
        ({"loss_is_scaled_for_ga": False}, 7, 1),
        ({"current_gradient_accumulation_steps": 3, "loss_is_scaled_for_ga": True}, 7, 3),
    ],
)
def test_what_the_trainer_says_is_believed(attributes: dict, number, expected: int) -> None:
    divisor = Divisor(trainer(**attributes))
    assert divisor.watch(number) is number
    assert divisor.value(number) == expected
