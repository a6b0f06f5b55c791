"""One forward pass, traced: layout, embeddings, logits, and optionally attention and hidden states by layer.

Attention and hidden states are reduced layer by layer, so that nothing of size (layers, B, L, d) or (layers, B, heads,
L, L) is held. B batch, L merged length, d hidden size, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...attach.observation import Observer, Recorder
from ...errors import ProbeError, UnsupportedModelError
from ...hooks.image_information import mask_image
from ...layout import SequenceLayout


@dataclass(frozen=True)
class Trace:
    """One forward pass.

    Attributes:
        logits: (B, L, V) as the model returned them.
        layout: masks (B, L).
        inputs_embeds, last_hidden_state: (B, L, d) what the decoder received, and returned after its final norm.
        states: per layer boundary, the decoder's input first: mean over the image positions (B, d), float32.
        attention: per layer: the attention of each position on all image positions, mean over heads (B, L), float32.
    """

    logits: Tensor
    layout: SequenceLayout
    inputs_embeds: Tensor
    last_hidden_state: Tensor
    states: list[Tensor]
    attention: list[Tensor]


class Tracer:
    """Runs batches through an observed model: ``with Tracer(model) as tracer``. Afterwards the model is as it was.

    Args:
        run: one forward on a batch, where that is not ``model(**batch)``.

    Raises:
        UnsupportedModelError, LayoutError: as `Observer`.
    """

    def __init__(self, model: nn.Module, run: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self.model = model
        self._run = run or (lambda batch: model(**batch))
        self._recorder = Recorder()
        self.observer = Observer(model, self._recorder)
        self.decoder = self.observer.decoder

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *error: object) -> None:
        self.observer.remove()

    @torch.no_grad()
    def trace(
        self, batch: Mapping[str, Any], *, blind: bool = False, attention: bool = False, states: bool = False
    ) -> Trace:
        """Run one batch.

        Args:
            batch: as `ProbeHost.collate` makes it, with ``labels``.
            blind: mask the image positions out of attention. Every position keeps its position id.
            attention: also reduce the attention weights; the model must have eager attention.
            states: also average the hidden states at image positions.

        Raises:
            ProbeError: a sample has no image position, or the model does not return what was asked for.
        """
        means: list[Tensor] = []
        masses: list[Tensor] = []

        def change_input(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            names = list(inspect.signature(module.forward).parameters)
            kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
            if blind:
                try:
                    kwargs["attention_mask"] = mask_image(kwargs.get("attention_mask"), self._layout().image)
                except ProbeError as error:
                    raise ProbeError(f"{error} Use --no-image blank or shuffled.") from error
            if attention and "output_attentions" in names:
                kwargs["output_attentions"] = True
            if states:
                means.append(self._image_mean(kwargs["inputs_embeds"]))
            return (), kwargs

        def keep_mean(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            means.append(self._image_mean(output))

        def reduce_attention(module: nn.Module, args: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
            masses.append(self._image_mass(module, output))
            return (output[0], None, *output[2:])  # nothing else keeps (B, heads, L, L)

        with ExitStack() as undo:
            undo.callback(self.observer.clear)
            undo.callback(self._recorder.forget)
            if blind or attention or states:
                # Registered after the observer's own hook, so the layout is known when it fires.
                undo.enter_context(self.decoder.register_forward_pre_hook(change_input, with_kwargs=True))
            for layer in decoder_layers(self.decoder) if attention or states else []:
                if states:
                    undo.enter_context(layer.register_forward_hook(keep_mean))
                if attention:
                    undo.enter_context(_attention_in(layer).register_forward_hook(reduce_attention))
            output = self._run(dict(batch))
            seen, layout = self._recorder.last, self._layout()
            if seen is None or seen.inputs_embeds is None or seen.last_hidden_state is None:
                raise ProbeError(f"the decoder {type(self.decoder).__name__} received no embeddings: nothing to probe.")
            return Trace(output.logits, layout, seen.inputs_embeds, seen.last_hidden_state, means, masses)

    def _layout(self) -> SequenceLayout:
        seen = self._recorder.last
        if seen is None or seen.layout is None:
            reason = seen.problem if seen and seen.problem else self.observer.explain_unknown_layout()
            raise ProbeError(
                f"the layout of what {type(self.decoder).__name__} received is unknown: no image in the batch, or "
                f"{reason}."
            )
        without = (~seen.layout.image.any(dim=1)).nonzero().flatten().tolist()
        if without:
            raise ProbeError(
                f"sample {without[0]} of a batch has no image position in the decoder's input: was the image cut off "
                "at the tokenizer's model_max_length? Shorten the conversation, or raise the limit."
            )
        return seen.layout

    def _image_mean(self, output: Any) -> Tensor:
        hidden = output[0] if isinstance(output, tuple) else output  # (B, L, d)
        image = self._layout().image.to(hidden.device)
        return torch.stack([rows[at].float().mean(dim=0) for rows, at in zip(hidden, image, strict=True)])

    def _image_mass(self, module: nn.Module, output: Any) -> Tensor:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise ProbeError(
                f"{type(module).__name__} returns no attention weights; eager attention is needed "
                "(attn_implementation='eager'). Leave the measure out with --measures."
            )
        image = self._layout().image.to(weights.device)
        return (weights.float().mean(dim=1) * image[:, None, :]).sum(dim=-1)


def decoder_layers(decoder: nn.Module) -> list[nn.Module]:
    """Return the decoder's layers, in order, or raise UnsupportedModelError when it has no list of them."""
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    if not stacks:
        raise UnsupportedModelError(
            f"{type(decoder).__name__} has no ModuleList of layers, which attention and hidden states by layer need. "
            "Choose other --measures."
        )
    return list(max(stacks, key=lambda stack: len(list(stack))))


def _attention_in(layer: nn.Module) -> nn.Module:
    found = next((module for module in layer.modules() if type(module).__name__.endswith("Attention")), None)
    if found is None:
        raise UnsupportedModelError(
            f"{type(layer).__name__} has no module whose class name ends in 'Attention'. Leave the measure out with "
            "--measures."
        )
    return found
