"""TinyLLaVA Factory (TinyLLaVA/TinyLLaVA_Factory): one class over any language model, vision tower and connector."""

from __future__ import annotations

from .base import Adapter, register_adapter


@register_adapter("tinyllava")
class TinyLlava(Adapter):
    """LLaVA's merge method. The model calls ``language_model.forward`` past its hooks: the stack inside is observed.

    The stack owns the input embedding in all of its language models: ``language_model.model`` (Llama, Phi, Qwen2,
    Gemma, StableLM), ``language_model.transformer`` (OpenELM).
    """

    classes = ("tinyllava.model.modeling_tinyllava.TinyLlavaForConditionalGeneration",)
