"""Video-LLaVA (PKU-YuanGroup/Video-LLaVA): images and videos through LanguageBind encoders."""

from __future__ import annotations

from .base import Adapter, register_adapter

_PACKAGE = "videollava.model.language_model"


@register_adapter("videollava")
class VideoLlava(Adapter):
    """LLaVA's merge method. A video is one placeholder per frame, and its rows are image positions."""

    classes = (
        f"{_PACKAGE}.llava_llama.LlavaLlamaForCausalLM",
        f"{_PACKAGE}.llava_mpt.LlavaMPTForCausalLM",
    )
