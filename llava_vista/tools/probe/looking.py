"""One forward pass of a model, looked into: the layout, what VISTA sees, attention and hidden states.

Each is reduced as it passes, so that nothing of size (layers, B, L, d) or (layers, B, heads, L, L) is ever held.

The layout comes from `llava_vista.attach`, as in training. B batch, L merged length, d hidden size, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...attach.handle import attach
from ...config import VistaConfig
from ...errors import ProbeError, UnsupportedModelError
from ...layout import SequenceLayout
from ...objective import AlignmentHead, Text
from .blinding import without_image


@dataclass
class Seen:
    """What one forward pass showed.

    logits: (B, L, V) as the model returned them.
    layout: masks (B, L).
    embeds, hidden: (B, L, d) what the decoder received, and returned after its final norm.
    states: per layer boundary (decoder input first), the mean over the image's positions (B, d), float32.
    attention: per layer, the attention of each position on all image positions, mean over heads (B, L), float32.
    """

    logits: Tensor
    layout: SequenceLayout
    embeds: Tensor
    hidden: Tensor
    states: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)


class _RecordingHead(AlignmentHead):
    """The head that computes the VISTA term, keeping what it is given."""

    layout: SequenceLayout | None = None
    embeds: Tensor | None = None
    hidden: Tensor | None = None

    def read_text(self, inputs_embeds: Tensor, layout: SequenceLayout) -> Text:
        self.embeds, self.layout = inputs_embeds, layout
        return super().read_text(inputs_embeds, layout)

    def anchor(self, last_hidden_state: Tensor, layout: SequenceLayout, text: Text) -> Tensor:
        self.hidden = last_hidden_state
        return super().anchor(last_hidden_state, layout, text)

    def forget(self) -> None:
        self.layout = self.embeds = self.hidden = None


class Looker:
    """Runs batches through a model that VISTA observes. Use `looking_at`, which takes everything off again."""

    def __init__(self, model: nn.Module, run: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self.model = model
        self.run = run or (lambda batch: model(**batch))
        self.handle = attach(model, VistaConfig(), add_to_loss=False)
        self.head = _RecordingHead(self.handle.config)
        self.handle.head = self.head
        self.decoder = self.handle.decoder

    @torch.no_grad()
    def look(
        self, batch: Mapping[str, Any], *, blind: bool = False, attention: bool = False, states: bool = False
    ) -> Seen:
        """Run one batch.

        Args:
            batch: as `Subject.collate` makes it, with ``labels``.
            blind: mask the image's positions out of attention; every other position stays where it is.
            attention: also reduce the attention weights; the model must have eager attention.
            states: also average the hidden states at image positions.

        Raises:
            ProbeError: the batch has no image, or the model does not show what was asked for.
        """
        self.head.forget()
        found_states: list[Tensor] = []
        found_attention: list[Tensor] = []
        removers: list[Any] = []
        try:
            if blind or attention or states:
                removers.append(
                    # after the tap's own hook, which makes the layout known
                    self.decoder.register_forward_pre_hook(
                        lambda module, args, kwargs: self._enter(args, kwargs, blind, attention, states, found_states),
                        with_kwargs=True,
                    )
                )
            layers = decoder_layers(self.decoder) if attention or states else []
            if states:
                removers += [
                    layer.register_forward_hook(lambda m, a, output: found_states.append(self._image_mean(output)))
                    for layer in layers
                ]
            if attention:
                removers += [
                    _attention_of(layer).register_forward_hook(
                        lambda m, a, output: self._reduce_attention(m, output, found_attention)
                    )
                    for layer in layers
                ]
            output = self.run(dict(batch))
        finally:
            for remover in removers:
                remover.remove()
        layout, embeds, hidden = self.head.layout, self.head.embeds, self.head.hidden
        self.handle.clear()
        self.head.forget()
        if layout is None or embeds is None or hidden is None:
            raise ProbeError(
                f"the decoder {type(self.decoder).__name__} was run without a layout: the batch held no image, or "
                "no labels."
            )
        return Seen(output.logits, layout, embeds, hidden, found_states, found_attention)

    def _layout(self) -> SequenceLayout:
        if self.head.layout is None:
            raise ProbeError(
                f"the layout was not known when {type(self.decoder).__name__} began: no image in the batch?"
            )
        return self.head.layout

    def _enter(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        blind: bool,
        attention: bool,
        states: bool,
        found_states: list[Tensor],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = list(inspect.signature(self.decoder.forward).parameters)
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        if blind:
            kwargs["attention_mask"] = without_image(kwargs.get("attention_mask"), self._layout().image)
        if attention and "output_attentions" in names:
            kwargs["output_attentions"] = True
        if states:
            found_states.append(self._image_mean(kwargs["inputs_embeds"]))
        return (), kwargs

    def _image_mean(self, output: Any) -> Tensor:
        hidden = output[0] if isinstance(output, tuple) else output  # (B, L, d)
        image = self._layout().image.to(hidden.device)
        return torch.stack([rows[at].float().mean(dim=0) for rows, at in zip(hidden, image, strict=True)])

    def _reduce_attention(self, module: nn.Module, output: Any, found: list[Tensor]) -> Any:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise ProbeError(
                f"{type(module).__name__} shows no attention weights; eager attention is needed "
                "(attn_implementation='eager'). Leave the measure out with --measures."
            )
        image = self._layout().image.to(weights.device)  # (B, L)
        found.append((weights.float().mean(dim=1) * image[:, None, :]).sum(dim=-1))
        return (output[0], None, *output[2:])  # nobody else gets to keep (B, heads, L, L)


def decoder_layers(decoder: nn.Module) -> list[nn.Module]:
    """The decoder's layers, in order.

    Raises:
        UnsupportedModelError: it has no list of layers.
    """
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    if not stacks:
        raise UnsupportedModelError(
            f"{type(decoder).__name__} keeps its layers in no ModuleList, so attention and hidden states by layer "
            "cannot be looked at. Choose other --measures."
        )
    return list(max(stacks, key=lambda stack: len(list(stack))))


def _attention_of(layer: nn.Module) -> nn.Module:
    for module in layer.modules():
        if type(module).__name__.endswith("Attention"):
            return module
    raise UnsupportedModelError(
        f"{type(layer).__name__} has no module whose class name ends in 'Attention', so attention cannot be looked at. "
        "Leave the measure out with --measures."
    )


@contextmanager
def looking_at(model: nn.Module, run: Callable[[dict[str, Any]], Any] | None = None) -> Iterator[Looker]:
    """A `Looker` for the model; afterwards the model is as it was.

    Args:
        run: one forward on a batch, where that is not ``model(**batch)``.

    Raises:
        UnsupportedModelError, AttachError: as `llava_vista.attach`.
    """
    looker = Looker(model, run)
    try:
        yield looker
    finally:
        looker.handle.detach()
