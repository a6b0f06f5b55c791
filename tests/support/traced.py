"""One forward pass of a model, with the image or without, by hooks of the tests' own."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from llava_vista.attach.observation import Observer, Recorder
from llava_vista.hooks.image_information import mask_image


@torch.no_grad()
def trace(model: nn.Module, batch: dict[str, Any], *, blind: bool = False) -> SimpleNamespace:
    """Return logits, layout, labels, inputs_embeds and last_hidden_state; ``blind`` masks out the image positions.

    Unlike the package, which runs the decoder alone once more, the whole model runs.
    """
    observer = Observer(model, recorder := Recorder())
    names = list(inspect.signature(observer.decoder.forward).parameters)

    def hide_image(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        return (), {**kwargs, "attention_mask": mask_image(kwargs.get("attention_mask"), recorder.last.layout.image)}

    hook = observer.decoder.register_forward_pre_hook(hide_image, with_kwargs=True) if blind else None
    try:
        logits = model(**batch).logits
    finally:
        observer.remove()
        if hook is not None:
            hook.remove()
    seen = recorder.last
    return SimpleNamespace(
        logits=logits, layout=seen.layout, labels=seen.labels, inputs_embeds=seen.inputs_embeds,
        last_hidden_state=seen.last_hidden_state,
    )  # fmt: skip


def answer_log_probs(seen: SimpleNamespace) -> list[Tensor]:
    """Return log p of each row's labels (m,) float64, by a loop."""
    rows = []
    for logits, labels in zip(seen.logits, seen.labels, strict=True):
        scores = logits.double().log_softmax(dim=-1)
        rows.append(torch.stack([scores[at - 1, labels[at]] for at in range(1, len(labels)) if labels[at] >= 0]))
    return rows
