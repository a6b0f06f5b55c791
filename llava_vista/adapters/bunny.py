"""Bunny (BAAI-DCAI/Bunny): SigLIP with Phi-1.5/2, Phi-3, Qwen1.5, StableLM-2, MiniCPM or Llama 3."""

from __future__ import annotations

from .base import Adapter, register_adapter

_PACKAGE = "bunny.model.language_model"


@register_adapter("bunny")
class Bunny(Adapter):
    """LLaVA's merge method; it overwrites the placeholders in the caller's ``input_ids`` with 0."""

    classes = (
        f"{_PACKAGE}.bunny_phi.BunnyPhiForCausalLM",
        f"{_PACKAGE}.bunny_phi3.BunnyPhi3ForCausalLM",
        f"{_PACKAGE}.bunny_qwen.BunnyQwen2ForCausalLM",
        f"{_PACKAGE}.bunny_stablelm.BunnyStableLMForCausalLM",
        f"{_PACKAGE}.bunny_minicpm.BunnyMiniCPMForCausalLM",
        f"{_PACKAGE}.bunny_llama.BunnyLlamaForCausalLM",
    )
