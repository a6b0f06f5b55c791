"""By how much the loss that `Trainer.compute_loss` returns is divided already, for gradient accumulation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..attach.decoder_tap import Hook
from ..attach.handle import loss_in
from ..attach.patching import Replacement
from ..logging import warn_once

#: Largest relative difference at which a loss counts as equal to one of the values that it may have.
TOLERANCE = 0.02
#: Positions whose logits are made float32 at a time.
_CHUNK = 256
#: Micro-batches on which the loss is compared before the trainer's own attributes decide.
_TRIES = 8
#: Nodes of the graph that are looked at, from the loss on.
_NODES = 128


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean next-token cross-entropy of logits (B, L, V) and the number of supervised tokens, both ().

    ``labels`` (B, L) are negative where not supervised.
    """
    total = torch.zeros((), device=logits.device)
    labels = labels[:, 1:].to(logits.device)
    count, labels = (labels >= 0).sum(), labels.masked_fill(labels < 0, -100)
    with torch.no_grad():
        for row, wanted in zip(logits[:, :-1], labels, strict=True):
            for chunk, part in zip(row.split(_CHUNK), wanted.split(_CHUNK), strict=True):
                total += cross_entropy(chunk.float(), part, reduction="sum")
    return total / count.clamp(min=1), count


def divided_means(mean: Tensor, count: Tensor, window: int, num_items: Any, world_size: int) -> list[Tensor]:
    """Return what a mean cross-entropy over ``count`` tokens may be after its division for an accumulation window.

    By the number of micro-batches, or by ``num_items`` tokens of the window (None: not known), of one rank or of all.
    """
    means = [mean / window]
    if num_items is not None:
        items = torch.as_tensor(num_items).to(mean.device).float().mean()
        means += [mean * count / items * shares for shares in (1, world_size)]
    return means


def argument(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any], name: str, at: int) -> Any:
    """Return an argument of `Trainer.compute_loss`, whatever an override calls or collects it by; None without it.

    Args:
        signature: of the bound method. args, kwargs: of the call.
        name, at: transformers' name for it, and its place behind ``self``.
    """
    if name in kwargs:
        return kwargs[name]
    given = signature.bind_partial(*args, **kwargs).arguments
    return given[name] if name in given else args[at] if at < len(args) else None


class LossScale:
    """What a mean over one micro-batch must be divided by before it is added to the loss of `compute_loss`.

    Whatever comes after `compute_loss` (the trainer's, accelerate's or DeepSpeed's division, a loss scaler) acts on
    cross-entropy and VISTA alike. So one thing decides: is the returned cross-entropy a mean over the micro-batch
    (divisor 1), or is it divided for the k micro-batches of the accumulation window already (divisor k)?

    It is measured on the first micro-batches of several, on the device and without synchronising: the loss is compared
    with the mean cross-entropy of the model's own logits, with that divided by k, and with the sum divided by
    ``num_items_in_batch``. Where no logits are returned, or the loss is none of the three (label smoothing, a router
    loss, several forwards), it is a mean if it was made of a loss of the model that was not given the number; else the
    rule of `Trainer.training_step` decides, by the attributes that it reads. What the trainer class declares to be a
    mean (``loss_is_scaled_for_ga = False``) is one.

    A model may take ``num_items_in_batch`` and never use it (Llava in 4.49, VipLlava up to 5.6): the trainer believes
    the loss to be normalised and adds up means. The term is then scaled as the cross-entropy is, with a warning.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._window: int | None = None
        #: 0 unknown, 1 a mean, 2 divided; a tensor on the device until `settle` reads it
        self._found: Tensor | int = 0
        self._is_announced = False
        #: micro-batches left to compare; a hook would become a part of a compiled model, and stay there
        is_declared = getattr(trainer, "loss_is_scaled_for_ga", None) is False
        self._tries = 0 if trainer.args.torch_compile or is_declared else _TRIES
        #: where the model's own losses stand in the graph, those that were not given num_items_in_batch
        self._means: list[Any] = []
        self._is_of_means = False
        self._forwards = 0
        self._logits: Tensor | None = None
        self._hook: Any = None
        self._replacement: Replacement | None = None
        if hasattr(trainer, "get_batch_samples"):
            # The last window of an epoch may be shorter; only the trainer's own list knows (transformers 4.46 to 4.54).
            wrapped = functools.partial(self._count_window, trainer.get_batch_samples)
            self._replacement = Replacement(trainer, "get_batch_samples", wrapped)

    def remove(self) -> None:
        """Remove everything from the trainer and its model."""
        self._stop_measuring()
        if self._replacement is not None:
            self._replacement.undo()

    def before_loss(self) -> None:
        """Prepare to measure, if the coming loss is one that tells."""
        self._logits, self._forwards, self._means = None, 0, []
        if self._hook is None and self._tries and self.window > 1:
            self._hook = self._trainer.model.register_forward_hook(Hook(self._keep_output), with_kwargs=True)

    def divisor(self, loss: Tensor, labels: Tensor | None, num_items_in_batch: Any) -> float | Tensor:
        """Return the divisor, after `compute_loss` has returned ``loss``; a tensor () until `settle` has read it.

        ``labels`` (B, L) are those of the merged sequence.
        """
        window = self.window
        if window == 1:
            return 1.0
        if self._hook is not None:
            self._is_of_means, self._means = _comes_from(loss, self._means), []
            self._measure(loss, labels, num_items_in_batch)
        self._is_announced = self._announced(num_items_in_batch)
        announced = float(window) if self._is_announced and not self._is_of_means else 1.0
        if isinstance(self._found, int):
            return (announced, 1.0, float(window))[self._found]
        measured = torch.where(self._found == 2, float(window), 1.0)
        return torch.where(self._found == 0, announced, measured).to(loss.device)

    def settle(self) -> None:
        """Read what was measured, and warn where the host's own scale is wrong. Reads the device, once in a run."""
        if isinstance(self._found, int):
            return
        found = int(self._found)
        if found:
            self._found = found
            self._stop_measuring()
        if found == 1 and self._is_announced:
            warn_once(
                f"{type(self._trainer.model).__name__} takes num_items_in_batch and does not use it, so this trainer "
                f"adds up the losses of {self.window} accumulated micro-batches where it should average them (with or "
                "without VISTA). The VISTA term is scaled as the cross-entropy is."
            )

    @property
    def window(self) -> int:
        """Number of micro-batches in the current accumulation window."""
        if self._window is not None:
            return self._window
        current = getattr(self._trainer, "current_gradient_accumulation_steps", None)
        return int(current or self._trainer.args.gradient_accumulation_steps)

    def _announced(self, num_items_in_batch: Any) -> bool:
        """Return whether `Trainer.training_step` takes the loss for divided."""
        trainer = self._trainer
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)  # transformers 5.19
        if scaled is not None:
            return bool(scaled)
        accepts = bool(getattr(trainer, "model_accepts_loss_kwargs", False))  # transformers 4.46
        return (accepts and num_items_in_batch is not None) or getattr(trainer, "compute_loss_func", None) is not None

    def _measure(self, loss: Tensor, labels: Tensor | None, num_items_in_batch: Any) -> None:
        self._tries -= 1
        logits, self._logits = self._logits, None
        if logits is not None and labels is not None and logits.shape[:2] == labels.shape and self._forwards == 1:
            mean, count = mean_cross_entropy(logits, labels)
            loss = loss.detach().float().mean().to(mean.device)
            divided = divided_means(mean, count, self.window, num_items_in_batch, self._trainer.args.world_size)
            is_divided = torch.stack([_equal(loss, value) for value in divided]).any()
            is_mean = _equal(loss, mean)
            # Both when this micro-batch holds nearly all tokens of the window: it tells nothing.
            now = torch.where(is_mean == is_divided, 0, torch.where(is_divided, 2, 1))
            self._found = now if isinstance(self._found, int) else torch.where(self._found == 0, now, self._found)
        if not self._tries:
            self._stop_measuring()

    def _stop_measuring(self) -> None:
        self._logits, self._tries, self._means = None, 0, []
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _keep_output(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not torch.is_grad_enabled():
            return  # a pass beside the one that is trained
        values = output if isinstance(output, tuple) else [output.get("logits")] if hasattr(output, "get") else []
        logits = next((value for value in values if isinstance(value, Tensor) and value.ndim == 3), None)
        self._forwards += 1
        self._logits = None if logits is None else logits.detach()
        loss, is_given = loss_in(output), kwargs.get("num_items_in_batch") is not None
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.grad_fn is not None and not is_given:
            self._means.append(loss.grad_fn)

    def _count_window(self, original: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if isinstance(result, tuple) and result and isinstance(result[0], list):
            self._window = max(1, len(result[0]))
        return result


def _equal(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).abs() <= TOLERANCE * wanted.abs().clamp(min=1e-12)


def _comes_from(loss: Tensor, nodes: Sequence[Any]) -> bool:
    """Return whether one of the graph's nodes is near the root of a loss: what a compute_loss adds up is few steps."""
    queue: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while queue and nodes and len(seen) < _NODES:
        node = queue.pop(0)
        if any(node is one for one in nodes):
            return True
        if node is not None and node not in seen:
            seen.add(node)
            queue += [following for following, _ in node.next_functions]
    return False
