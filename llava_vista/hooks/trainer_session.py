"""VISTA during one call of `Trainer.train`: attach, add the term to the loss and metrics to the log, and detach."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from ..attach.handle import Handle, handle_in, handle_on
from ..attach.meter import Meter
from ..attach.patching import Replacement
from ..config import FLAG, VistaConfig
from ..errors import AttachError, VistaError
from ..logging import say, warn_once
from .accumulation import LossScale
from .ranks import agree
from .refusals import HOST_LOSS, other_objective, refuse_what_cannot_be
from .run_record import RunRecord
from .trackers import report_options
from .training_probe import TrainingProbe

#: After this many logged records without a single aligned sample, the user is warned.
UNALIGNED_RECORDS = 3


class TrainingSession:
    """Context manager around the host's own `Trainer.train`. It owns the meter, the step and the accounts of a run.

    Everything is put on this trainer's instance, not its class: other libraries patch `Trainer.compute_loss` on the
    class for a while, and a patch there would be lost.

    Args:
        trainer: the host's.
        config: what to train with.
        source: how VISTA was asked for, for messages.
        must_act: a training that VISTA cannot act on stops. With False, or weight 0, it goes on with a warning.
        arguments: the objects that the host's parser made.
    """

    def __init__(
        self,
        trainer: Any,
        config: VistaConfig,
        source: str = f"--{FLAG}",
        *,
        must_act: bool = True,
        arguments: Iterable[Any] = (),
    ) -> None:
        self.trainer, self.config, self.source = trainer, config, source
        self._must_act = must_act and config.weight > 0
        self._arguments = tuple(arguments)
        self.handle: Handle | None = None
        self.meter = Meter()
        #: the handle is the program's own, from attach(): it is given back, not detached
        self._borrowed = False
        self._replacements: list[Replacement | TrainingProbe] = []
        self._scale: LossScale | None = None
        self._probe: TrainingProbe | None = None
        self._callback = _Callback(self)
        self._objective = other_objective(trainer)
        self._losses = self._losses_of_step = self._losses_without_gradient = 0
        self._first_step: int | None = None
        self._pending: dict[str, float] | None = None
        self._records_without_aligned = 0
        self._ever_aligned = self._is_refused = False
        self._record: RunRecord | None = None

    def __enter__(self) -> TrainingSession:
        try:
            refuse_what_cannot_be(self.trainer, self.config, self.source, self._arguments)
        except VistaError as error:
            if self._must_act:
                raise
            warn_once(f"this training is without VISTA, which {self.source} asked for: {error}")
            self._is_refused = True
        else:
            self.trainer.add_callback(self._callback)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._release()
        if self._callback in self.trainer.callback_handler.callbacks:
            self.trainer.remove_callback(self._callback)
        if kind is not None or self._is_refused:
            return
        if self._first_step is None:
            warn_once(
                f"{self.source} had no effect: {type(self.trainer).__name__}.train returned without on_train_begin, by "
                "a loop of its own. Use llava_vista.attach(model) in that loop."
            )
        elif self._losses == 0 and self.trainer.state.global_step > self._first_step:
            warn_once(
                f"{self.source} had no effect: {type(self.trainer).__name__} trained without calling compute_loss with "
                "gradients. Use llava_vista.attach(model) instead."
            )

    def _release(self) -> None:
        for replacement in reversed(self._replacements):
            replacement.undo()
        self._replacements = []
        self._probe = None
        if self._scale is not None:
            self._scale.remove()
            self._scale = None
        if self.handle is not None and not self._borrowed:
            self.handle.detach()
        elif self.handle is not None and handle_on(self.handle.inner) is self.handle:  # not detached meanwhile
            self.handle.add_entry(add_to_loss=True)  # as attach() had left it
        self.handle, self._borrowed = None, False

    def _borrow(self) -> Handle | None:
        """Return the program's own attach(), if there is one: the term is added once, where accumulation is known.

        Raises:
            AttachError: it was attached with other options, or only observes.
        """
        existing = handle_in(self.trainer.model)
        if existing is None:
            return None
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
        self._borrowed = True
        return existing

    # --- called by the callback ---

    def begin(self) -> None:
        """Attach. The model is complete now, also when the trainer makes it itself, or wraps it."""
        self._release()  # the trainer may start over (hyper-parameter search, batch-size finder)
        try:
            self._begin()
        except VistaError as error:
            self._complain(error)

    def _begin(self) -> None:
        trainer = self.trainer
        agree(self.config)
        self.handle, self.meter = self._borrow() or Handle(trainer.model, self.config), Meter()
        self._scale = LossScale(trainer)
        self._losses = self._losses_of_step = self._losses_without_gradient = 0
        self._first_step = trainer.state.global_step
        if self.config.probe_steps:
            self._probe = TrainingProbe(trainer, self.handle, self._scale, self.config.probe_steps)
            self._replacements = [self._probe]
        self._replacements += [
            Replacement(trainer, "compute_loss", self._with_term(trainer.compute_loss)),
            Replacement(trainer, "_maybe_log_save_evaluate", self._with_record(trainer._maybe_log_save_evaluate)),
            Replacement(trainer, "log", self._with_metrics(trainer.log)),
        ]
        observed = "observed only, " if self.config.weight == 0 else ""
        say(f"VISTA enabled: {self.config.describe()} ({observed}asked for by {self.source}); {self.handle.describe()}")
        if trainer.is_world_process_zero():
            self._record = RunRecord(self.handle, trainer)
            report_options(trainer, self.config)

    def end_step(self) -> None:
        """Check that the optimizer step that just ended had the term in its loss.

        Raises:
            AttachError: it had not. With weight 0, which may not stop a run, a warning says so.
        """
        losses, self._losses_of_step = self._losses_of_step, 0
        without, self._losses_without_gradient = self._losses_without_gradient, 0
        if self.handle is None or losses:
            return
        name = type(self.trainer).__name__
        cause = (
            f"{name} called compute_loss without gradients only (a zeroth-order optimizer?)"
            if without
            else f"{name} trained a step without calling compute_loss, by a training_step or loop of its own"
        )
        self._complain(
            AttachError(
                f"{cause}, so VISTA could not be added to the loss. Call self.compute_loss in it, or use "
                f"llava_vista.attach(model) instead of {self.source}."
            )
        )

    def end(self) -> None:
        """Training is over: the last steps may not have been logged, and the host will save its result."""
        if self.handle is not None:
            if self.handle.stops_on_nonfinite:
                self.meter.check(self.handle.device, across_ranks=True)
            if not self._ever_aligned and self._records_without_aligned:
                self._warn_unaligned()
            if self._record is not None:
                self._record.finish(self.trainer.state.global_step)

    def _complain(self, error: VistaError) -> None:
        """Raise ``error``; where VISTA only observes, warn and stop observing."""
        if self._must_act:
            raise error
        warn_once(f"{error} VISTA does nothing further in this training.")
        self._is_refused = True
        self._release()

    # --- what is put on the trainer ---

    def _with_term(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            handle, scale = self.handle, self._scale
            if handle is None or scale is None:
                return original(*args, **kwargs)
            if not torch.is_grad_enabled():  # evaluation
                self._losses_without_gradient += 1
                return original(*args, **kwargs)
            handle.clear()
            scale.before_loss()
            given = signature.bind_partial(*args, **kwargs).arguments
            inputs = given.get("inputs")
            labels = inputs.get("labels") if isinstance(inputs, Mapping) else None
            handle.observer.batch = inputs if isinstance(inputs, Mapping) else {}
            result = original(*args, **kwargs)
            loss = result[0] if isinstance(result, tuple) else result
            self._losses += 1
            self._losses_of_step += 1
            total = self._add_term(handle, scale, loss, labels, given.get("num_items_in_batch"))
            handle.clear()
            return (total, *result[1:]) if isinstance(result, tuple) else total

        return compute_loss

    def _add_term(self, handle: Handle, scale: LossScale, loss: Tensor, labels: Any, num_items: Any) -> Tensor:
        step = self.trainer.state.global_step
        divisor = scale.divisor(loss, handle.merged_labels, num_items)
        labels = labels if isinstance(labels, Tensor) else None
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
        return loss + (self.config.weight / divisor) * terms.loss.to(loss.device)

    def _with_record(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def maybe_log_save_evaluate(*args: Any, **kwargs: Any) -> Any:
            # The trainer itself calls this on every rank, so the gather is safe here, and only here: `log` may be
            # called by user code on one rank. No checkpoint may hold the result of a loss that was not finite.
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
                        f"{type(trainer).__name__} made no log record with a loss where transformers' Trainer makes "
                        f"one, so VISTA's averages of these steps are not in the log: {self._pending}."
                    )
                return result
            finally:
                self._pending = None

        return maybe_log_save_evaluate

    def _read_metrics(self, handle: Handle) -> dict[str, float]:
        metrics = self.meter.read(handle.device, across_ranks=True, stop_on_nonfinite=handle.stops_on_nonfinite)
        if self._probe is not None:
            metrics |= self._probe.read()
        if self._scale is not None:
            self._scale.settle()
        self._check_alignment(metrics)
        if self._objective and "ce_loss" in metrics:
            metrics[HOST_LOSS] = metrics.pop("ce_loss")
        return metrics

    def _with_metrics(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
            # The trainer's record is the first with a loss while it logs; nothing is pending when user code logs.
            if self._pending is not None and "loss" in logs:
                logs, self._pending = {**logs, **self._pending}, None
            return original(logs, *args, **kwargs)

        return log

    def _check_alignment(self, metrics: dict[str, float]) -> None:
        if metrics["vista_aligned_samples"]:
            self._ever_aligned = True
            return
        self._records_without_aligned += 1
        if not self._ever_aligned and self._records_without_aligned >= UNALIGNED_RECORDS:
            self._warn_unaligned()

    def _warn_unaligned(self) -> None:
        warn_once(
            "VISTA has not seen a single sample with both an image and text since training began "
            "(vista_aligned_samples is 0 in the log), so it adds nothing. Is the data text-only, or are the images cut "
            "off by the maximum length?"
        )


class _Callback(TrainerCallback):
    """Forwards the trainer's events to the session."""

    def __init__(self, session: TrainingSession) -> None:
        self.session = session

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.end_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.end()
