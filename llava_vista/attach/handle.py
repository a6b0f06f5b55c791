"""Attach VISTA to a model, and detach it."""

from __future__ import annotations

import functools
import sys
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from ..config import VistaConfig
from ..errors import AttachError, LayoutError, VistaError
from ..logging import warn_once
from ..objective import AlignmentTerms
from .alignment import Alignment
from .decoder_tap import Hook
from .meter import Meter
from .observation import Observation, Observer

# Model -> its handle, both weak: dropping model and handle frees them. A copy of an attached model is not in here.
_HANDLES: WeakKeyDictionary[nn.Module, ReferenceType[Handle]] = WeakKeyDictionary()


def handle_on(module: nn.Module) -> Handle | None:
    """Return the handle that is attached to exactly this module."""
    reference = _HANDLES.get(module)
    return None if reference is None else reference()


def handle_in(model: nn.Module) -> Handle | None:
    """Return the handle of ``model`` or of a model inside it (what PEFT or DDP wraps), if there is one."""
    return next((handle for module in model.modules() if (handle := handle_on(module)) is not None), None)


class Handle:
    """VISTA on one model, made by `attach`.

    It holds tensors of a step only between the forward and the moment its loss is taken.
    """

    def __init__(self, model: nn.Module, config: VistaConfig) -> None:
        self.config = config
        self.model = model
        self.meter = Meter()
        #: number of forwards of ``model`` so far, for messages
        self._forwards = 0
        self._inside = False
        self._terms: AlignmentTerms | None = None
        self._watches_entry = self._observes = False
        self._removers: list[Any] = []
        # First what may refuse the config: nothing is on the model then.
        self.alignment = Alignment(config, self._embedding, lambda: self.observer.explain_unknown_layout())
        self.observer = Observer(model, self, is_wanted=self._wants_pass)
        self.adapter, self.inner, self.decoder = self.observer.adapter, self.observer.inner, self.observer.decoder
        if handle_on(self.inner) is not None:
            self.observer.remove()
            raise AttachError(
                f"VISTA is already attached to this {type(self.inner).__name__}; call detach() on its handle first."
            )
        _HANDLES[self.inner] = ref(self)
        _forget_compiled_code()

    # --- what the user calls ---

    def loss(self) -> Tensor:
        """L_VISTA of the last forward: float32 scalar, connected to the graph (weight not applied).

        Raises:
            LayoutError: the decoder has not run, or it got embeddings whose layout is unknown.
        """
        return self._last_terms().loss

    def metrics(self) -> dict[str, float]:
        """Return averages over the training forwards since the last call, and reset. Reads the device.

        Returns:
            ``vista_loss`` and ``vista_similarity`` (means over aligned samples), ``vista_aligned_samples`` (their
            number), ``vista_margin``, ``vista_own_first`` and ``vista_own_first_chance`` (see `OwnText`), ``ce_loss``
            (mean over forwards). A key without a value is left out.

        Raises:
            NonFiniteLossError: a VISTA loss was not finite, ``on_nonfinite`` is "stop" and the weight is not 0.
        """
        return self.meter.read(self.device, across_ranks=False, stop_on_nonfinite=self.stops_on_nonfinite)

    def detach(self) -> None:
        """Make the model exactly as it was before `attach`. Calling it again does nothing."""
        if handle_on(self.inner) is not self:
            return
        self.clear()
        self.remove_entry()
        self.observer.remove()
        del _HANDLES[self.inner]
        _forget_compiled_code()

    # --- what the trainer session and messages use ---

    @property
    def stops_on_nonfinite(self) -> bool:
        """Whether a VISTA loss that is not finite stops the run; an observer (weight 0) never does."""
        return self.config.on_nonfinite == "stop" and self.config.weight > 0

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter."""
        return next(self.inner.parameters()).device

    @property
    def adds_to_loss(self) -> bool:
        """Whether the term is added to the loss that the model returns."""
        return self._watches_entry and not self._observes

    @property
    def merged_labels(self) -> Tensor | None:
        """(B, L) the host's labels in the only decoder pass since the last `clear`; None after several."""
        return self.alignment.labels

    def take_terms(self) -> AlignmentTerms:
        """Return the term over all decoder passes since the last `clear`, and release it."""
        terms = self._last_terms()
        self.clear()
        return terms

    def describe(self) -> str:
        """Return what was recognised and where the hooks are, for the line at the start of a run."""
        return self.observer.describe()

    def clear(self) -> None:
        """Release the last forward's tensors."""
        self._terms = None
        self.observer.clear()
        self.alignment.clear()

    def add_entry(self, *, add_to_loss: bool) -> None:
        """Observe the forward of ``model`` itself: for training loops that call it directly."""
        self._watches_entry, self._observes = True, not add_to_loss
        self._removers += [
            # before the layout source's own hook, which may be on the same module
            self.model.register_forward_pre_hook(Hook(self._enter), prepend=True),
            self.model.register_forward_hook(Hook(functools.partial(self._leave, add_to_loss))),
        ]

    def remove_entry(self) -> None:
        """Undo `add_entry`: the trainer session takes the term and adds it to the loss."""
        self.clear()
        for remover in self._removers:
            remover.remove()
        self._removers = []
        self._inside = False
        self._watches_entry = self._observes = False

    # --- listener of the decoder passes ---

    def _wants_pass(self) -> bool:
        if torch.is_grad_enabled():
            return self.inner.training or self._observes or not self._watches_entry
        return self._observes or (self._watches_entry and self.inner.training)

    def decoder_called(self, observation: Observation) -> None:
        trained = torch.is_grad_enabled() and observation.layout is not None and self.inner.training
        if trained and self._watches_entry and not self._inside and self.config.weight > 0 and not self._observes:
            raise AttachError(
                f"{type(self.inner).__name__} was trained through another object than the {type(self.model).__name__} "
                "that VISTA is attached to (wrapped by PEFT afterwards?), so the term could not reach the loss. Attach "
                "to the object whose forward the training loop calls."
            )
        self.alignment.decoder_called(observation)

    def decoder_returned(self, observation: Observation) -> None:
        self.alignment.decoder_returned(observation)

    # --- hooks on the model's own forward ---

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.clear()
        self._forwards += 1
        self._inside = True

    def _leave(self, add_to_loss: bool, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        self._inside = False
        if not module.training:
            return None  # evaluation: the host's own numbers
        loss = loss_in(output)
        if not torch.is_grad_enabled() and not (isinstance(loss, Tensor) and loss.numel() == 1):
            return None  # generation in training mode
        acts = add_to_loss and self.config.weight > 0
        if torch.is_grad_enabled() and self.alignment.passes and not self.alignment.has_gradient:
            missing = (
                f"the decoder {type(self.decoder).__name__} ran without gradients in a forward that is trained, so the "
                "term has no gradient. Is the whole decoder inside a checkpoint with use_reentrant=True? Checkpoint "
                "its layers instead (model.gradient_checkpointing_enable())."
            )
            if acts:
                raise AttachError(missing)
            if not add_to_loss:
                warn_once(missing)
        try:
            term = self.loss()
        except VistaError as error:
            if acts:
                raise
            warn_once(f"{error} VISTA observes nothing in such a forward.")  # an observer stops nothing
            return None
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            if not acts:
                return None
            raise LayoutError(
                f"{type(module).__name__} in training mode returned no scalar loss, so VISTA has nothing to be added "
                "to. Pass labels, or attach(..., add_to_loss=False) and add handle.loss() yourself."
            )
        if acts and torch.is_grad_enabled() and term.requires_grad and not loss.requires_grad:
            raise LayoutError(
                f"the first loss that {type(module).__name__} returned has no gradient, so it is not what is trained "
                "on, and the term cannot be added to it. Use attach(..., add_to_loss=False) and add "
                "weight * handle.loss() to the loss that is."
            )
        self.meter.add_cross_entropy(loss, None, self._forwards - 1)
        if not add_to_loss:
            return None
        if self._terms is not None:  # keep the numbers, release the graph
            self._terms = self._terms.detach()
        if not acts:
            return None
        return with_loss(output, loss + self.config.weight * term.to(loss.device))

    def _last_terms(self) -> AlignmentTerms:
        if self._terms is None:
            self._terms = self.alignment.terms()
            if self._terms is None:
                raise LayoutError(
                    f"VISTA saw no call of the decoder {type(self.decoder).__name__} in this forward. The model was "
                    "not run, or it runs another module than the one that adapter "
                    f"{self.adapter.name} names, or calls decoder.forward(...), where no hook fires."
                )
            if self.inner.training and self._watches_entry:
                self.meter.add_terms(self._terms, self._forwards - 1)
        return self._terms

    def _embedding(self) -> nn.Module:
        embedding: nn.Module = self.inner.get_input_embeddings()  # type: ignore[operator]
        return embedding


def _forget_compiled_code() -> None:
    """Make torch.compile trace models again, where it is in use.

    It does not notice that hooks come and go: what it compiled for one model also runs for another of the same class.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def loss_in(output: Any) -> Any:
    """Return the loss of what a model or a compute_loss returned: a tensor, or a sequence or mapping with it."""
    if hasattr(output, "get"):
        return output.get("loss")
    return (output[0] if output else None) if isinstance(output, (tuple, list)) else output


def with_loss(output: Any, loss: Tensor) -> Any:
    """Return what a model or a compute_loss returned with another loss, in the type that it has."""
    if hasattr(output, "get"):
        output["loss"] = loss
        return output
    if hasattr(output, "_replace"):  # a named tuple
        return output._replace(**{output._fields[0]: loss})
    if isinstance(output, Tensor):
        return loss
    return type(output)((loss, *output[1:]))


def attach(model: nn.Module, config: VistaConfig | None = None, *, add_to_loss: bool = True) -> Handle:
    """Attach VISTA to a model of a known family (also inside a PEFT wrapper).

    In training mode, the ``loss`` that ``model(**batch)`` returns becomes cross-entropy + weight * L_VISTA. In
    evaluation mode, and for `generate`, the model behaves as before. No parameter, buffer or submodule is added. Under
    a `transformers.Trainer` use `llava_vista.install` (or the flag) instead: it knows about gradient accumulation.

    Args:
        model: the object whose forward the training loop calls.
        config: the published defaults when None.
        add_to_loss: False only observes: ``handle.loss()`` is the term of the last forward.

    Raises:
        UnsupportedModelError: no adapter, or more than one, recognises the model.
        AttachError: VISTA is already attached to it.
    """
    handle = Handle(model, config or VistaConfig())
    handle.add_entry(add_to_loss=add_to_loss)
    # Only a process that listens keeps account of requests; `attach/` does not import `hooks/`.
    request = sys.modules.get("llava_vista.hooks.request")
    if request is not None:
        request.REQUEST.act()
    return handle
