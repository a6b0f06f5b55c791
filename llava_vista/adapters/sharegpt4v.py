"""ShareGPT4V (ShareGPT4Omni/ShareGPT4V): LLaVA before 1.1.2, whose merge method returns five values."""

from __future__ import annotations

from .base import Adapter, register_adapter


@register_adapter("sharegpt4v")
class ShareGpt4V(Adapter):
    """The older merge method: no position ids, and padding keeps its place and its labels, with mask 0."""

    classes = ("share4v.model.language_model.share4v_llama.Share4VLlamaForCausalLM",)
