"""transformers.Trainer: VISTA is on the model from the moment training begins until `train` returns or raises."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from ..attach.handle import Handle, handle_in, handle_on, loss_in, with_loss
from ..attach.meter import Meter
from ..attach.patching import Replacement
from ..config import VistaConfig
from ..errors import AttachError, VistaError
from ..logging import say, warn_once
from .accumulation import LossScale, argument
from .process_signs import PROBE_VARIABLE
from .refusals import agree, other_objective, refuse_what_cannot_be
from .request import REQUEST, Settled
from .run_record import RunRecord, report_options
from .training_probe import TrainingProbe

#: After this many logged records without a single aligned sample, the user is warned.
UNALIGNED_RECORDS = 3


def apply(module: ModuleType) -> Callable[[], None]:
    """Patch ``module.Trainer.train`` (transformers.trainer); returns the undo function."""
    original = module.Trainer.train
    signature = inspect.signature(original)

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        settled = REQUEST.settle(self.args)
        if os.environ.get(PROBE_VARIABLE):
            from .host_probe import probe_instead  # what a training does not need

            given = signature.bind_partial(self, *args, **kwargs).arguments
            probe_instead(self, settled.config or VistaConfig(), given.get("resume_from_checkpoint"))
        if settled.config is None:
            return original(self, *args, **kwargs)
        REQUEST.act(settled)
        try:
            with TrainingSession(self, settled.config, settled):
                return original(self, *args, **kwargs)
        finally:
            REQUEST.end(settled)

    return Replacement(module.Trainer, "train", train).undo


class TrainingSession(TrainerCallback):
    """Context manager around the host's own `Trainer.train`. It owns the meter, the step and the accounts of a run.

    Everything is put on this trainer's instance, not its class: other libraries patch `Trainer.compute_loss` on the
    class for a while, and a patch there would be lost. A training that VISTA cannot act on stops; where the request
    (``settled``) is not certain, or the weight is 0, it goes on with a warning.
    """

    def __init__(self, trainer: Any, config: VistaConfig, settled: Settled) -> None:
        self.trainer, self.config, self.source = trainer, config, settled.source
        self._must_act = settled.is_certain and config.weight > 0
        self._arguments = settled.arguments
        self.handle: Handle | None = None
        self.meter = Meter()
        self._undo = ExitStack()
        self._scale: LossScale | None = None
        self._probe: TrainingProbe | None = None
        self._objective = other_objective(trainer)
        self._losses = self._losses_of_step = self._losses_without_term = 0
        self._added = self._reached = 0  # terms of this step in a loss, and those that backward has come by
        self._first_step: int | None = None
        self._pending: dict[str, float] | None = None
        self._records = self._aligned = 0
        self._is_refused = self._inside = self._evaluates = False
        self._record: RunRecord | None = None

    def __enter__(self) -> None:
        try:
            refuse_what_cannot_be(self.trainer, self.config, self.source, self._arguments)
        except VistaError as error:
            self._complain(error, f"this training is without VISTA, which {self.source} asked for: {error}")
        else:
            self.trainer.add_callback(self)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._release()
        if self in self.trainer.callback_handler.callbacks:
            self.trainer.remove_callback(self)
        if kind is not None or self._is_refused:
            return
        name = type(self.trainer).__name__
        if self._first_step is None:
            warn_once(
                f"{self.source} had no effect: {name}.train returned without on_train_begin, by a loop of its own. Use "
                "llava_vista.attach(model) in that loop."
            )
        elif self._losses == 0 and self.trainer.state.global_step > self._first_step:
            warn_once(
                f"{self.source} had no effect: {name} trained without calling compute_loss with gradients. Use "
                "llava_vista.attach(model) instead."
            )

    def _release(self) -> None:
        self._undo.close()
        self.handle = self._scale = self._probe = None

    def _complain(self, error: VistaError, warning: str = "") -> None:
        """Raise ``error``; where VISTA may not stop the training, warn, and stop observing."""
        if self._must_act:
            raise error
        warn_once(warning or f"{error} VISTA does nothing further in this training.")
        self._is_refused = True
        self._release()

    # --- the trainer's events ---

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Attach. The model is complete now, also when the trainer makes it itself, or wraps it."""
        self._release()  # the trainer may start over (hyper-parameter search, batch-size finder)
        trainer = self.trainer
        try:
            agree(self.config)
            self.handle, self.meter = self._attach(), Meter()
        except VistaError as error:
            self._complain(error)
            return
        self._scale = LossScale(trainer)
        self._undo.callback(self._scale.remove)
        self._losses = self._losses_of_step = self._losses_without_term = 0
        self._first_step = trainer.state.global_step
        if self.config.probe_steps:
            self._probe = TrainingProbe(trainer, self.handle, self._scale, self.config.probe_steps)
            self._undo.callback(self._probe.undo)
        self._signature = inspect.signature(trainer.compute_loss)
        for name, wrapper in (
            ("compute_loss", self._compute_loss),
            ("_maybe_log_save_evaluate", self._maybe_log_save_evaluate),
            ("log", self._log),
            ("evaluate", self._evaluate),
            ("predict", self._evaluate),
            ("prediction_step", self._evaluate),
        ):
            wrapped = functools.partial(wrapper, getattr(trainer, name))
            self._undo.callback(Replacement(trainer, name, wrapped).undo)
        observed = "observed only, " if self.config.weight == 0 else ""
        say(f"VISTA enabled: {self.config.describe()} ({observed}asked for by {self.source}); {self.handle.describe()}")
        if trainer.is_world_process_zero():
            self._record = RunRecord(self.handle, trainer)
            report_options(trainer, self.config)

    def _attach(self) -> Handle:
        """Return a new handle, or the program's own of attach(): the term is added once, where accumulation is known.

        Raises:
            AttachError: the program's was attached with other options, or only observes.
        """
        existing = handle_in(self.trainer.model)
        if existing is None:
            handle = Handle(self.trainer.model, self.config)
            self._undo.callback(handle.detach)
            return handle
        name = type(existing.inner).__name__
        if existing.config != self.config:
            mine, theirs = self.config.to_dict(), existing.config.to_dict()
            differ = ", ".join(f"{key} {theirs[key]!r} and {mine[key]!r}" for key in mine if mine[key] != theirs[key])
            raise AttachError(
                f"VISTA is attached to this {name} by attach() in the program and asked for by {self.source} with "
                f"other options: {differ}. Use one of the two: detach() the handle, or leave out {self.source}."
            )
        if not existing.adds_to_loss:
            raise AttachError(
                f"VISTA is already attached to this {name}, by attach(..., add_to_loss=False) in the program or by "
                f"another training in progress, and {self.source} asks to train with it: the term might be added "
                f"twice. Use one of the two: detach() the handle, or leave out {self.source}."
            )
        say(
            f"VISTA is attached to this {name} by attach() in the program, and asked for by {self.source} with the "
            "same options: it is applied once, by the trainer."
        )
        existing.remove_entry()
        self._undo.callback(_give_back, existing)
        return existing

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Check that the optimizer step that just ended had the term in its loss.

        Raises:
            AttachError: it had not. With weight 0, which may not stop a run, a warning says so.
        """
        losses, without = self._losses_of_step, self._losses_without_term
        added, reached = self._added, self._reached
        self._losses_of_step = self._losses_without_term = self._added = self._reached = 0
        if self.handle is None or (losses and (reached or not added)):
            return
        name = type(self.trainer).__name__
        cause = (
            f"{name} trained a step on another loss than the one that its compute_loss returned"
            if losses
            else f"{name} called compute_loss without gradients only (a zeroth-order optimizer?)"
            if without
            else f"{name} trained a step without calling compute_loss, by a training_step or loop of its own"
        )
        self._complain(
            AttachError(
                f"{cause}, so VISTA could not be added to the loss. Train on what self.compute_loss returns, or "
                f"use llava_vista.attach(model) instead of {self.source}."
            )
        )

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Check the last steps, which may not have been logged: the host will save its result."""
        if self.handle is None:
            return
        if self.handle.stops_on_nonfinite:
            self.meter.check(self.handle.device, across_ranks=True)
        self._warn_if_unaligned(records=1)
        if self._record is not None:
            self._record.finish(self.trainer.state.global_step)

    # --- what is put on the trainer ---

    def _compute_loss(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        handle, scale = self.handle, self._scale
        if self._inside or self._evaluates:  # a part of an outer compute_loss, or not for training
            return original(*args, **kwargs)
        if handle is None or scale is None or not torch.is_grad_enabled():  # off, or evaluation
            self._losses_without_term += 1
            return original(*args, **kwargs)
        handle.clear()
        scale.before_loss()
        inputs = argument(self._signature, args, kwargs, "inputs", 1)
        num_items = argument(self._signature, args, kwargs, "num_items_in_batch", 3)
        handle.observer.batch = batch = inputs if isinstance(inputs, Mapping) else {}
        labels = batch.get("labels")  # before the host takes them out
        self._inside = True
        try:
            result = original(*args, **kwargs)
        finally:
            self._inside = False
        self._losses += 1
        self._losses_of_step += 1
        loss = loss_in(result)
        if not isinstance(loss, Tensor):
            found = f"{type(self.trainer).__name__}.compute_loss returned {type(result).__name__} without a loss"
            self._complain(AttachError(f"{found}; a tensor, or a tuple, list or mapping with one was expected."))
            return result
        total = self._add_term(handle, scale, loss, labels, num_items)
        handle.clear()
        return result if total is loss else with_loss(result, total)

    def _add_term(self, handle: Handle, scale: LossScale, loss: Tensor, labels: Any, num_items: Any) -> Tensor:
        step = self.trainer.state.global_step
        labels = labels if isinstance(labels, Tensor) else None
        divisor = scale.divisor(loss, labels if handle.merged_labels is None else handle.merged_labels, num_items)
        self.meter.add_cross_entropy(loss.detach() * divisor, labels, step)
        try:
            terms = handle.take_terms()
        except VistaError as error:
            self._complain(error)
            return loss
        self.meter.add_terms(terms, step)
        if self.config.weight == 0:
            return loss  # nothing is added, so nothing can differ from the baseline
        if loss.requires_grad and not terms.loss.requires_grad and self.config.on_nonfinite != "skip":
            warn_once(
                "the VISTA term has no gradient: neither the decoder nor the text embeddings nor what makes the image "
                "features is trained, so VISTA changes nothing."
            )
        if terms.loss.requires_grad:
            self._added += 1
            terms.loss.register_hook(self._note_backward)
        return loss + (self.config.weight / divisor) * terms.loss.to(loss.device)

    def _note_backward(self, gradient: Tensor) -> None:
        self._reached += 1

    def _maybe_log_save_evaluate(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        # The trainer itself calls this on every rank, so the gather is safe here, and only here: `log` may be called
        # by user code on one rank. No checkpoint may hold the result of a loss that was not finite.
        handle, trainer = self.handle, self.trainer
        if handle is not None:
            logs = trainer.state.global_step > getattr(trainer, "_globalstep_last_logged", -1)
            if trainer.control.should_log and logs:
                self._pending = self._read_metrics(handle)
            elif trainer.control.should_save and handle.stops_on_nonfinite:
                self.meter.check(handle.device, across_ranks=True)
        try:
            result = original(*args, **kwargs)
            if self._pending is not None:
                warn_once(
                    f"{type(trainer).__name__} made no log record with a loss where transformers' Trainer makes one, "
                    f"so VISTA's averages of these steps are not in the log: {self._pending}."
                )
            return result
        finally:
            self._pending = None

    def _read_metrics(self, handle: Handle) -> dict[str, float]:
        metrics = self.meter.read(handle.device, across_ranks=True, stop_on_nonfinite=handle.stops_on_nonfinite)
        if self._probe is not None:
            metrics |= self._probe.read()
        if self._scale is not None:
            self._scale.settle()
        self._records += 1
        self._aligned += int(metrics["vista_aligned_samples"])
        self._warn_if_unaligned(records=UNALIGNED_RECORDS)
        if self._objective and "ce_loss" in metrics:  # the host's own loss is not a cross-entropy
            metrics["host_loss"] = metrics.pop("ce_loss")
        return metrics

    def _warn_if_unaligned(self, records: int) -> None:
        """Warn when at least so many records have been made, and none of them had an aligned sample."""
        if self._records >= records and not self._aligned:
            warn_once(
                "VISTA has not seen a single sample with both an image and text since training began "
                "(vista_aligned_samples is 0 in the log), so it adds nothing. Is the data text-only, or are the images "
                "cut off by the maximum length?"
            )

    def _evaluate(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        # Whatever calls compute_loss in here wants the host's own loss, also with gradients enabled.
        before, self._evaluates = self._evaluates, True
        try:
            return original(*args, **kwargs)
        finally:
            self._evaluates = before

    def _log(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        # The trainer's record is the first with a loss while it logs; nothing is pending when user code logs.
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}  # an override may call the record by another name
        for place, value in given.items():
            if self._pending is not None and isinstance(value, Mapping) and "loss" in value:
                given[place], self._pending = {**value, **self._pending}, None
        positional = [given.pop(place) for place in range(len(args))]
        return original(*positional, **given)


def _give_back(handle: Handle) -> None:
    """Leave a handle of the program's own as attach() had left it."""
    if handle_on(handle.inner) is handle:  # not detached meanwhile
        handle.add_entry(add_to_loss=True)
