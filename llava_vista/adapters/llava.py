"""LLaVA-1.5 (haotian-liu/LLaVA; on PyPI as llava-torch) and the forks that keep its package and class names."""

from __future__ import annotations

from torch import nn

from .base import Adapter, register_adapter

_PACKAGE = "llava.model.language_model"


@register_adapter("llava")
class Llava(Adapter):
    """Image features replace placeholders in ``prepare_inputs_labels_for_multimodal``, six values come back."""

    classes = (
        f"{_PACKAGE}.llava_llama.LlavaLlamaForCausalLM",
        f"{_PACKAGE}.llava_mistral.LlavaMistralForCausalLM",
        f"{_PACKAGE}.llava_mpt.LlavaMptForCausalLM",
    )

    def decoder(self, model: nn.Module) -> nn.Module:
        decoder: nn.Module = model.get_model()  # type: ignore[operator]
        return decoder
