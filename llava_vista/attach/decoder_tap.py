"""The tap: what goes into a decoder and what comes out, seen as it passes. Nothing is copied or computed twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LayoutError


def _inert(*args: Any, **kwargs: Any) -> None:
    """What a hook becomes in a copy or a pickle of the model: nothing."""


def _make_inert() -> Callable[..., None]:
    return _inert


class Hook:
    """A hook that acts on one module only: copied or pickled along with a model, it turns into a no-op."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _inert

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _make_inert, ()


class Tap:
    """Shows each passage through ``decoder`` to its owner and keeps what that makes of the last one.

    A call without gradients does not replace a result that has them: some hosts run the decoder a second time under
    ``no_grad`` for a side computation.

    Args:
        decoder: the decoder stack.
        enter: called with inputs_embeds (B, L, d), or None for a call with ``input_ids``.
        leave: called with what ``enter`` returned and the last hidden state (B, L, d); returns the result to keep.
    """

    def __init__(
        self, decoder: nn.Module, enter: Callable[[Tensor | None], Any], leave: Callable[[Any, Tensor], Any]
    ) -> None:
        self.decoder = decoder
        self.result: Any = None
        self._enter, self._leave = enter, leave
        self._with_gradient = False
        self._opened: tuple[Any] | None = None
        self._signature = inspect.signature(decoder.forward)
        self._removers = [
            decoder.register_forward_pre_hook(Hook(self._before), with_kwargs=True),
            decoder.register_forward_hook(Hook(self._after)),
        ]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        embeds = kwargs.get("inputs_embeds")
        if embeds is None and args:
            embeds = self._signature.bind_partial(*args).arguments.get("inputs_embeds")
        self._opened = (self._enter(embeds),)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        opened, self._opened = self._opened, None
        if opened is None or (self.result is not None and self._with_gradient and not torch.is_grad_enabled()):
            return
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is None:
            hidden = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            raise LayoutError(
                f"the decoder {type(self.decoder).__name__} returned {type(hidden).__name__} first; its last hidden "
                "state, a (B, L, d) tensor, was expected."
            )
        self.result, self._with_gradient = self._leave(opened[0], hidden), torch.is_grad_enabled()

    def drop(self) -> None:
        """Let go of what was kept."""
        self.result, self._opened, self._with_gradient = None, None, False

    def remove(self) -> None:
        """Take the hooks off the decoder."""
        self.drop()
        for remover in self._removers:
            remover.remove()
        self._removers = []
