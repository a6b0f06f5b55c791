"""Attention on the image and states of the image, layer by layer, as the decoder runs.

Both are reduced at once, so that nothing of size (layers, B, L, d) or (layers, B, heads, L, L) is held.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...attach.observation import Observation, Observer
from ...errors import ProbeError, UnsupportedModelError
from ...hooks.probed_samples import binned
from ...layout import SequenceLayout


class LayerReadings:
    """Reads every pass that the observer delivers; no pass that a listener adds.

    Attributes (of the last pass):
        layout: masks (B, L); None where it is unknown.
        attention: per layer: the attention of each position on all image positions, mean over heads (B, L), float32.
        states: per layer boundary, the decoder's input first: mean over the image positions (B, d), float32.

    Args:
        observer: of a model in evaluation mode, for ``attention`` with eager attention.
    """

    def __init__(self, observer: Observer, *, attention: bool, states: bool) -> None:
        self.attention: list[Tensor] = []
        self.states: list[Tensor] = []
        self.layout: Any = None
        self._reads_states = states
        self._undo = ExitStack()
        self._undo.callback(observer.add_listener(self))
        layers = list(_layers_of(observer.decoder)) if attention or states else []
        self._depth = len(layers)
        if attention:  # behind the observer's hook
            self._undo.enter_context(observer.decoder.register_forward_pre_hook(self._ask, with_kwargs=True))
        for layer in layers:
            if states:
                self._undo.enter_context(layer.register_forward_hook(self._keep_mean))
            if attention:
                self._undo.enter_context(_attention_in(layer).register_forward_hook(self._reduce_attention))

    def remove(self) -> None:
        """Remove everything from the model."""
        self._undo.close()

    def decoder_called(self, observation: Observation) -> None:
        self.layout, self.attention, self.states = observation.layout, [], []
        if self._reads_states:
            self._keep_mean(None, (), observation.inputs_embeds)

    def decoder_returned(self, observation: Observation) -> None:
        """Do nothing: all layers were read. A pass that another listener adds now is not."""

    def _ask(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs if self.attention else {**kwargs, "output_attentions": True}

    def _keep_mean(self, module: nn.Module | None, args: Any, output: Any) -> None:
        if self.layout is not None and len(self.states) <= self._depth:
            hidden = output[0] if isinstance(output, tuple) else output  # (B, L, d)
            pairs = zip(hidden, self.layout.image.to(hidden.device), strict=True)
            self.states.append(torch.stack([rows[at].float().mean(dim=0) for rows, at in pairs]))

    def _reduce_attention(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self.layout is None or len(self.attention) == self._depth:
            return output
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise ProbeError(
                f"{type(module).__name__} returns no attention weights; eager attention is needed "
                "(attn_implementation='eager'). Leave the measure out with --measures."
            )
        image = self.layout.image.to(weights.device)[:, None, :]
        self.attention.append((weights.float().mean(dim=1) * image).sum(dim=-1))
        return (output[0], None, *output[2:])  # nothing else keeps (B, heads, L, L)


def attention_record(attention: list[Tensor], layout: SequenceLayout, row: int) -> dict[str, Any]:
    """Return the shares of one sample for its record: by layer, and sums over layers' means by bin of text positions.

    Text before the image cannot attend to it and is left out.
    """
    text, image = layout.text[row], layout.image[row]
    at = text & (image.cumsum(dim=0) > 0)
    mass = torch.stack([layer[row][at.to(layer.device)].cpu() for layer in attention])  # (layers, m)
    (sums,), counts = binned(mass.mean(dim=0)[None], text.cumsum(dim=0)[at].cpu())
    layers = mass.mean(dim=1).tolist() if mass.shape[1] else None
    return {"attention_by_layer": layers, "attention": sums, "attending": counts, "image_tokens": int(image.sum())}


def _layers_of(decoder: nn.Module) -> nn.ModuleList:
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    if not stacks:
        raise UnsupportedModelError(f"{type(decoder).__name__} has no list of layers: use --measures information.")
    return max(stacks, key=len)


def _attention_in(layer: nn.Module) -> nn.Module:
    for module in layer.modules():
        if type(module).__name__.endswith("Attention"):
            return module
    raise UnsupportedModelError(f"{type(layer).__name__} has no module named ...Attention: leave out that measure.")
