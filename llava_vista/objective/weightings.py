"""Position weightings omega(t, m): how much the t-th of m text tokens counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import WEIGHTINGS

#: (t, m) -> omega. t (B, L) float32, the 1-based number of each text token; m (B, 1) float32, at least 1.
Weighting = Callable[[Tensor, Tensor], Tensor]


def register_weighting(name: str) -> Callable[[Weighting], Weighting]:
    """Decorator: make ``--vista_position_weighting name`` use the decorated function ``(t, m) -> omega (B, L)``.

    Raises:
        RegistryError: the name is taken.
    """

    def register(weighting: Weighting) -> Weighting:
        WEIGHTINGS.add(name, weighting)
        return weighting

    return register


@register_weighting("linear")
def linear(t: Tensor, m: Tensor) -> Tensor:
    """t/m, as published: the later the token, the more it counts."""
    return t / m


@register_weighting("uniform")
def uniform(t: Tensor, m: Tensor) -> Tensor:
    """1 for every token."""
    return torch.ones_like(t)
