"""Two hooks on the decoder, and the hook objects that every part of `attach/` registers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import LayoutError


def _inert(*args: Any, **kwargs: Any) -> None:
    """Do nothing: what a hook becomes in a copy of the model."""


class Hook:
    """A hook that acts on one module only. Copied or pickled along with a model, it turns into a no-op.

    A pickle names only the standard library, so that ``torch.save(model)`` of an attached model loads where
    llava-vista is not installed: ``nullcontext().__exit__`` takes any arguments and returns None.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _inert

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (contextlib.nullcontext(), "__exit__")


class DecoderTap:
    """Passes on what goes into a decoder and what comes out. Nothing is copied, computed twice or kept.

    Args:
        decoder: the decoder stack.
        enter: called before the decoder runs, with the arguments that it got, by name.
        leave: called with what ``enter`` returned and what the decoder returned; `hidden_in` finds the state in it.
    """

    def __init__(
        self, decoder: nn.Module, enter: Callable[[dict[str, Any]], Any], leave: Callable[[Any, Any], None]
    ) -> None:
        self.decoder = decoder
        self._enter, self._leave = enter, leave
        self._entered: tuple[Any] | None = None
        self._signature = inspect.signature(decoder.forward)
        self._removers = [
            decoder.register_forward_pre_hook(Hook(self._before), with_kwargs=True),
            decoder.register_forward_hook(Hook(self._after)),
        ]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = self._signature.bind_partial(*args).arguments if args else {}
        self._entered = (self._enter({**named, **kwargs}),)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        entered, self._entered = self._entered, None
        if entered is not None:
            self._leave(entered[0], output)

    def hidden_in(self, output: Any) -> Tensor:
        """Return the last hidden state (B, L, d) of what the decoder returned.

        Raises:
            LayoutError: it is not there.
        """
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is None:
            hidden = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            raise LayoutError(
                f"the decoder {type(self.decoder).__name__} returned {type(hidden).__name__} first; its last hidden "
                "state, a (B, L, d) tensor, was expected."
            )
        return hidden

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the decoder's forward."""
        return self._signature.parameters

    def remove(self) -> None:
        """Remove the hooks from the decoder."""
        self._entered = None
        for remover in self._removers:
            remover.remove()
        self._removers = []
