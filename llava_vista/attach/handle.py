"""Putting VISTA on one model, and taking it off again."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from ..adapters import find_adapter
from ..config import VistaConfig
from ..errors import AttachError, LayoutError
from ..layout import SequenceLayout
from ..objective import AlignmentHead, AlignmentTerms, Text
from .decoder_tap import Hook, Tap
from .first_batch_check import FirstBatchCheck
from .layout_source import LayoutWatch
from .meter import Meter

# Model -> its handle, both weak: dropping model and handle frees them. A copy of an attached model is not in here.
_HANDLES: WeakKeyDictionary[nn.Module, ReferenceType[Handle]] = WeakKeyDictionary()


def handle_on(module: nn.Module) -> Handle | None:
    """The handle that is attached to exactly this module."""
    reference = _HANDLES.get(module)
    return None if reference is None else reference()


def handle_in(model: nn.Module) -> Handle | None:
    """The handle of ``model`` or of a model inside it (what PEFT or DDP wraps), if VISTA is attached there."""
    return next((handle for module in model.modules() if (handle := handle_on(module)) is not None), None)


class Passage(NamedTuple):
    """What is kept of one call of the decoder: nothing of size (B, L, d).

    shape: of inputs_embeds; None for a call with ``input_ids`` (a batch without images).
    layout: only while the decoder runs.
    text, anchors: what the alignment needs; None when no layout is known.
    """

    shape: tuple[int, ...] | None
    layout: SequenceLayout | None = None
    text: Text | None = None
    anchors: Tensor | None = None


class Handle:
    """VISTA on one model. Made by `attach`.

    It holds tensors of a step only between the forward and the moment its loss is taken.
    """

    def __init__(self, model: nn.Module, config: VistaConfig) -> None:
        found = find_adapter(model)
        if handle_on(found.module) is not None:
            raise AttachError(
                f"VISTA is already attached to this {type(found.module).__name__}; call detach() on its handle first."
            )
        self.adapter, self.inner = found
        self.model = model
        self.config = config
        self.decoder = self.adapter.decoder(self.inner)
        self.head = AlignmentHead(config)
        self.meter = Meter()
        #: Optimizer step, for messages; a trainer sets it.
        self.step = 0
        self._terms: AlignmentTerms | None = None
        self._inside = False
        self._watches_entry = self._observes = False
        self._removers: list[Any] = []
        check = FirstBatchCheck(self.adapter, self.inner) if self.adapter.fallback else None
        self._watch = LayoutWatch(self.adapter, self.inner, model, check)
        self._tap = Tap(self.decoder, self._enter_decoder, self._leave_decoder)
        _HANDLES[self.inner] = ref(self)

    # --- what the host calls ---

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() or self._terms is None or not self._terms.loss.requires_grad:
            self.clear()
        self._inside = True

    def _leave(self, add_to_loss: bool, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        self._inside = False
        if not module.training or self._tap.result is None:
            return None  # evaluation and generation: the host's own numbers
        term = self.loss()
        loss = output.get("loss") if hasattr(output, "get") else output[0]
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise LayoutError(
                f"{type(module).__name__} in training mode returned no scalar loss, so VISTA has nothing to be added "
                "to. Pass labels, or attach(..., add_to_loss=False) and add handle.loss() yourself."
            )
        self.meter.add_cross_entropy(loss, None, self.step)
        if not add_to_loss:
            return None
        self._forget_graph()
        if self.config.weight == 0:
            return None
        total = loss + self.config.weight * term.to(loss.device)
        if hasattr(output, "get"):
            output["loss"] = total
            return output
        return (total, *output[1:])

    # --- what the user calls ---

    def loss(self) -> Tensor:
        """L_VISTA of the last forward: float32 scalar, connected to the graph (weight not applied).

        Raises:
            LayoutError: the decoder has not run, or it got embeddings whose layout is unknown.
        """
        if self._terms is None:
            self._terms = self._align()
            if self.inner.training:
                self.meter.add_terms(self._terms, self.step)
        return self._terms.loss

    def metrics(self) -> dict[str, float]:
        """Averages over the training forwards since the last call, then start anew. Reads the device.

        Returns:
            ``vista_loss`` and ``vista_similarity`` (means over aligned samples; 0.0 when there were none),
            ``vista_aligned_samples`` (their number), ``ce_loss`` (mean over forwards).

        Raises:
            NonFiniteLossError: a VISTA loss was not finite and ``on_nonfinite`` is "stop".
        """
        record = self.read_metrics(across_ranks=False)
        record.setdefault("ce_loss", 0.0)
        return record

    def read_metrics(self, *, across_ranks: bool) -> dict[str, float]:
        """As `metrics`, over all ranks if asked (then every rank must call)."""
        return self.meter.read(self._device(), across_ranks=across_ranks, stop_on_nonfinite=self._stops)

    def check_finite(self, *, across_ranks: bool) -> None:
        """Raise NonFiniteLossError if a VISTA loss since the last metrics was not finite, unless such are skipped."""
        if self._stops:
            self.meter.check(self._device(), across_ranks=across_ranks)

    @property
    def _stops(self) -> bool:
        return self.config.on_nonfinite == "stop"

    def _device(self) -> torch.device:
        return next(self.inner.parameters()).device

    def clear(self) -> None:
        """Let go of the last forward's tensors."""
        self._terms = None
        self._watch.clear()
        self._tap.drop()

    def detach(self) -> None:
        """Make the model exactly as it was before `attach`. Calling it again does nothing."""
        if handle_on(self.inner) is not self:
            return
        self.clear()
        self._tap.remove()
        self.remove_entry()
        self._watch.remove()
        del _HANDLES[self.inner]

    # --- how the term comes about ---

    def add_entry(self, *, add_to_loss: bool) -> None:
        """Watch the forward of ``model`` itself: for training loops that call it directly."""
        self._watches_entry, self._observes = True, not add_to_loss
        self._removers += [
            # before the watch's own hook, which may stand on the same module
            self.model.register_forward_pre_hook(Hook(self._enter), prepend=True),
            self.model.register_forward_hook(Hook(functools.partial(self._leave, add_to_loss))),
        ]

    def remove_entry(self) -> None:
        """The opposite of `add_entry`: somebody else takes the term and adds it to the loss."""
        self.clear()
        for remover in self._removers:
            remover.remove()
        self._removers = []
        self._watches_entry = self._observes = False

    @property
    def adds_to_loss(self) -> bool:
        """Whether `attach` put the term into the loss that the model returns."""
        return self._watches_entry and not self._observes

    def describe(self) -> str:
        """Where each piece was put, for the line at the start of a run."""
        names = {id(module): name for name, module in self.model.named_modules()}
        where = names.get(id(self.decoder), "") or "(the model itself)"
        return (
            f"{type(self.inner).__name__} (adapter {self.adapter.name}): layout from "
            f"{self._watch.describe()}, decoder {where} ({type(self.decoder).__name__})"
        )

    def _forget_graph(self) -> None:
        """Keep the numbers of the last terms, let go of their graph."""
        if self._terms is not None:
            self._terms = AlignmentTerms(*(value.detach() for value in self._terms))

    def _enter_decoder(self, embeds: Tensor | None) -> Passage:
        layout = self._watch.take(embeds)
        trained = self.inner.training and torch.is_grad_enabled() and layout is not None
        if trained and self._watches_entry and not self._inside:
            raise AttachError(
                f"{type(self.inner).__name__} was trained through another object than the {type(self.model).__name__} "
                "that VISTA is attached to (wrapped by PEFT afterwards?), so the term could not reach the loss. Attach "
                "to the object whose forward the training loop calls."
            )
        if embeds is None or layout is None or not (self.inner.training or self._observes):
            return Passage(None if embeds is None else tuple(embeds.shape))
        if not any(parameter.requires_grad for parameter in self._embedding().parameters()):
            embeds = embeds.detach()  # a frozen table: no gradient for it is formed
        return Passage(tuple(embeds.shape), layout, self.head.read_text(embeds, layout))

    def _leave_decoder(self, passage: Passage, hidden: Tensor) -> Passage:
        if passage.layout is not None and passage.text is not None:
            anchors = self.head.anchor(hidden, passage.layout, passage.text)
            return passage._replace(layout=None, anchors=anchors)
        if passage.shape is None:  # a batch without images
            anchors, text = self.head.nothing(hidden)
            return passage._replace(text=text, anchors=anchors)
        return passage

    def _align(self) -> AlignmentTerms:
        passage: Passage | None = self._tap.result
        self._tap.drop()
        if passage is None:
            raise LayoutError(
                f"VISTA saw no call of the decoder {type(self.decoder).__name__} since the last step. The model was "
                f"not run, or it runs another module than the one that adapter {self.adapter.name} names."
            )
        if passage.text is None or passage.anchors is None:
            raise LayoutError(
                f"the decoder got inputs_embeds {passage.shape}, but {self._watch.describe()} told no layout: "
                f"{self._watch.why_unknown()}. VISTA cannot tell text from image there."
            )
        return self.head.train(self.inner.training).align(passage.anchors, passage.text)

    def _embedding(self) -> nn.Module:
        embedding: nn.Module = self.inner.get_input_embeddings()  # type: ignore[operator]
        return embedding


def attach(model: nn.Module, config: VistaConfig | None = None, *, add_to_loss: bool = True) -> Handle:
    """Put VISTA on a model of a known family (also inside a PEFT wrapper).

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
    return handle
