"""What attach() costs on a large model, counted in function calls: LoRA on a mixture of experts has 16,000 modules."""

from __future__ import annotations

import sys
from typing import Any

import torch
from merging_host import Merging, config

from llava_vista import attach


def calls(modules: int) -> int:
    """Return how many Python functions attach() and detach() call on a model with so many further modules."""
    model = Merging(config())
    model.more = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Identity()) for _ in range(modules // 2)])
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    attach(model).detach()  # adapters are loaded, caches filled
    sys.setprofile(profile)
    try:
        attach(model).detach()
    finally:
        sys.setprofile(None)
    return count


def test_attach_is_linear_in_the_number_of_modules() -> None:
    small, large = calls(2_000), calls(16_000)
    assert large / small <= 8.5
    assert large <= 16_000 * 40
