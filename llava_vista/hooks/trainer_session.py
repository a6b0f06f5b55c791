"""VISTA during one call of `Trainer.train`: attach, add the term to the loss, metrics to the log, and take all off."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from ..adapters import find_adapter
from ..attach.handle import Handle, handle_in, handle_on
from ..attach.meter import Meter
from ..attach.patching import Replacement
from ..config import ENVIRONMENT_VARIABLE, FLAG, VistaConfig
from ..errors import AttachError
from ..logging import say, warn_once
from .accumulation import Divisor
from .parallel import refuse_split_sequences
from .ranks import agree
from .run_record import warn_of_changes, write_run_record

#: After this many logged records without a single aligned sample, the user is warned.
UNALIGNED_RECORDS = 3


class TrainingSession:
    """Context manager around the host's own `Trainer.train`.

    Everything is put on this trainer's instance, not its class: other libraries patch `Trainer.compute_loss` on the
    class for a while, and a patch there would be lost.
    """

    def __init__(self, trainer: Any, config: VistaConfig) -> None:
        self.trainer = trainer
        self.config = config
        self.handle: Handle | None = None
        #: the handle is the program's own, from attach(): it is given back, not detached
        self._borrowed = False
        self._replacements: list[Replacement] = []
        self._divisor = Divisor(trainer)
        self._callback = _Callback(self)
        self._records_without_aligned = 0
        self._ever_aligned = False

    def __enter__(self) -> TrainingSession:
        if self.trainer.args.n_gpu > 1:
            raise AttachError(
                f"this Trainer runs nn.DataParallel over {self.trainer.args.n_gpu} GPUs in one process, where VISTA "
                "cannot follow the replicas. Launch one process per GPU (deepspeed, torchrun, accelerate launch), or "
                "show it one GPU (CUDA_VISIBLE_DEVICES=0)."
            )
        refuse_split_sequences(self.trainer)
        if self.trainer.model is not None:
            find_adapter(self.trainer.model)  # an unknown model stops here, before anything is set up
        self.trainer.add_callback(self._callback)
        return self

    def __exit__(self, *error: object) -> None:
        self._take_off()
        self.trainer.remove_callback(self._callback)

    def _take_off(self) -> None:
        for replacement in reversed(self._replacements):
            replacement.undo()
        self._replacements = []
        if self.handle is not None and not self._borrowed:
            self.handle.detach()
        elif self.handle is not None and handle_on(self.handle.inner) is self.handle:  # nobody detached it meanwhile
            self.handle.add_entry(add_to_loss=True)  # as attach() had left it
        self.handle, self._borrowed = None, False

    def _borrow(self) -> Handle | None:
        """The program's own attach(), if there is one: the term is added once, here, where accumulation is known.

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
                f"VISTA is attached to this {name} by attach() in the program and asked for by --{FLAG} (or install(), "
                f"or {ENVIRONMENT_VARIABLE}) with other options: {differ}. Use one of the two: detach() the handle, or "
                f"leave out --{FLAG} / {ENVIRONMENT_VARIABLE}."
            )
        if not existing.adds_to_loss:
            raise AttachError(
                f"VISTA is already attached to this {name}, by attach(..., add_to_loss=False) in the program or by "
                f"another training that is under way, and --{FLAG} (or install(), or {ENVIRONMENT_VARIABLE}) asks to "
                f"train with it: the term might be added twice. Use one of the two: detach() the handle, or leave out "
                f"--{FLAG} / {ENVIRONMENT_VARIABLE}."
            )
        say(
            f"VISTA is attached to this {name} by attach() in the program, and asked for by --{FLAG} (or install(), or "
            f"{ENVIRONMENT_VARIABLE}) with the same options: it is applied once, by the trainer."
        )
        existing.remove_entry()
        existing.meter = Meter()  # what it saw before is not of this training
        self._borrowed = True
        return existing

    # --- called by the callback ---

    def begin(self) -> None:
        """The model is complete now: also when the trainer makes it itself, or wraps it."""
        trainer = self.trainer
        self._take_off()  # the trainer may start over (hyper-parameter search, batch-size finder)
        agree(self.config)
        self.handle = self._borrow() or Handle(trainer.model, self.config)
        self._replacements = [
            Replacement(trainer, "compute_loss", self._with_term(trainer.compute_loss)),
            Replacement(trainer, "log", self._with_metrics(trainer.log)),
            Replacement(trainer, "_save_checkpoint", self._with_check(trainer._save_checkpoint)),
        ]
        weight = "observed only, weight 0" if self.config.weight == 0 else f"weight {self.config.weight:g}"
        say(
            f"VISTA {self.config.method}, {weight}, positions {self.config.position_weighting}, text "
            f"{self.config.text_scope}, on {self.handle.describe()}."
        )
        if trainer.is_world_process_zero():
            if trainer.state.global_step > 0:
                warn_of_changes(trainer.args.output_dir, self.config)
            write_run_record(self.handle, trainer)

    def end(self) -> None:
        """Training is over: the last steps may not have been logged, and the host will save its result."""
        if self.handle is not None:
            self.handle.check_finite(across_ranks=True)
        if not self._ever_aligned and self._records_without_aligned:
            self._warn_unaligned()

    # --- what is put on the trainer ---

    def _with_term(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            handle = self.handle
            if handle is None or not self.trainer.model.training:
                return original(*args, **kwargs)
            handle.clear()
            inputs = kwargs["inputs"] if "inputs" in kwargs else args[1]
            labels = inputs.get("labels")
            if kwargs.get("num_items_in_batch") is not None:
                kwargs["num_items_in_batch"] = self._divisor.watch(kwargs["num_items_in_batch"])
            result = original(*args, **kwargs)
            loss = result[0] if isinstance(result, tuple) else result
            total = self._add_term(handle, loss, labels, kwargs.get("num_items_in_batch"))
            handle.clear()
            return (total, *result[1:]) if isinstance(result, tuple) else total

        return compute_loss

    def _add_term(self, handle: Handle, loss: Tensor, labels: Tensor | None, num_items: Any) -> Tensor:
        handle.step = self.trainer.state.global_step
        divisor = self._divisor.value(num_items)
        term = handle.loss()
        handle.meter.add_cross_entropy(loss.detach() * divisor, labels, handle.step)
        if self.config.weight == 0:
            return loss  # nothing is added, so nothing can differ from the baseline
        return loss + (self.config.weight / divisor) * term.to(loss.device)

    def _with_metrics(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
            # The trainer's own training record; it is made on every rank, so the gather inside is safe.
            if self.handle is not None and "loss" in logs:
                metrics = self.handle.read_metrics(across_ranks=True)
                self._watch_alignment(metrics)
                logs = {**logs, **metrics}
            return original(logs, *args, **kwargs)

        return log

    def _with_check(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
            if self.handle is not None:
                # No checkpoint may hold the result of a loss that was not finite.
                self.handle.check_finite(across_ranks=True)
            return original(*args, **kwargs)

        return save_checkpoint

    def _watch_alignment(self, metrics: dict[str, float]) -> None:
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
    """Tells the session where the trainer is."""

    def __init__(self, session: TrainingSession) -> None:
        self.session = session

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.begin()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.session.end()
