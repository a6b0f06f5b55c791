"""By how much the loss that `Trainer.compute_loss` returns is divided already, for gradient accumulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..logging import warn_once


class Divisor:
    """What a mean over one micro-batch must be divided by before it is added to the loss of `compute_loss`.

    Whatever comes after `compute_loss` (the trainer's, accelerate's or DeepSpeed's division, a loss scaler) acts on
    cross-entropy and VISTA alike. So one thing decides: is the cross-entropy a mean over the micro-batch (1), or a sum
    that is normalised over all k accumulated micro-batches by ``num_items_in_batch`` already (k)? Asked of attributes,
    not versions: `model_accepts_loss_kwargs` came with transformers 4.46, `loss_is_scaled_for_ga` with 5.19,
    `current_gradient_accumulation_steps` with 4.55. Where a version itself scales wrongly (4.46.0-4.48.0, 5.2-5.5.3),
    the term is scaled as its cross-entropy is.

    A model may also take ``num_items_in_batch`` among its keywords and never use it (Llava in 4.49, Gemma3 in 4.52,
    VipLlava up to 5.6): the trainer believes the sum to be normalised, but it is a mean. So on the first micro-batch
    of several, the number is handed over in a form that tells whether anything was computed with it.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._used: bool | None = None

    def watch(self, num_items_in_batch: Any) -> Any:
        """What to hand to the host in the number's place: the number itself, or one that tells of its use."""
        if (
            self._used is not None
            or self._steps() == 1
            or getattr(self._trainer, "loss_is_scaled_for_ga", None) is not None
            or self._trainer.args.torch_compile  # the compiler would not see what is used
            or not isinstance(num_items_in_batch, (int, Tensor))
        ):
            return num_items_in_batch
        self._used = False
        return _Watched.of(torch.as_tensor(num_items_in_batch), self._note)

    def value(self, num_items_in_batch: Any) -> float:
        """The divisor, after `compute_loss` has run with ``num_items_in_batch``."""
        scaled = getattr(self._trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            scaled = num_items_in_batch is not None and (
                bool(getattr(self._trainer, "model_accepts_loss_kwargs", False))
                or getattr(self._trainer, "compute_loss_func", None) is not None
            )
            if scaled and self._used is False:
                warn_once(
                    f"{type(self._trainer.model).__name__} takes num_items_in_batch and does not use it, so this "
                    f"trainer adds up the losses of {self._steps():g} accumulated micro-batches where it should "
                    "average them (with or without VISTA). The VISTA term is scaled as the cross-entropy is."
                )
                scaled = False
        return self._steps() if scaled else 1.0

    def _steps(self) -> float:
        current = getattr(self._trainer, "current_gradient_accumulation_steps", None)
        return float(current or self._trainer.args.gradient_accumulation_steps)

    def _note(self) -> None:
        self._used = True


#: Reading the value counts as use; asking for its shape or device, or moving it, does not.
_READS = (Tensor.item, Tensor.tolist, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__bool__)


class _Watched(Tensor):
    """A number that calls ``note`` when something is computed with it. What is computed is an ordinary tensor."""

    note: Callable[[], None]

    @classmethod
    def of(cls, value: Tensor, note: Callable[[], None]) -> _Watched:
        watched = value.as_subclass(cls)
        watched.note = note
        return watched

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            given = [*args, *(kwargs or {}).values()]
            watched = next((value for value in given if isinstance(value, cls)), None)
            result = func(
                *(_plain(value) for value in args), **{key: _plain(value) for key, value in (kwargs or {}).items()}
            )
            if watched is None:
                return result
            if func in _READS or sum(isinstance(value, Tensor) for value in given) > 1:
                watched.note()
            elif isinstance(result, Tensor):  # moved or cast: still the number
                return cls.of(result, watched.note)
            return result


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, _Watched) else value
