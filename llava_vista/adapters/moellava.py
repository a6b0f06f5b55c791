"""MoE-LLaVA (PKU-YuanGroup/MoE-LLaVA): dense language models, and the same with sparse experts."""

from __future__ import annotations

from .base import Adapter, register_adapter

_PACKAGE = "moellava.model.language_model"


@register_adapter("moellava")
class MoeLlava(Adapter):
    """LLaVA's merge method. The host's own loss contains the experts' auxiliary loss, and keeps it.

    Subclasses (``Eval...``, which only load a trained model) are recognised too. QWen's stack is ``transformer``, the
    others' ``model``: it owns the input embedding in all of them.
    """

    classes = (
        f"{_PACKAGE}.llava_llama.LlavaLlamaForCausalLM",
        f"{_PACKAGE}.llava_mistral.LlavaMistralForCausalLM",
        f"{_PACKAGE}.llava_mpt.LlavaMPTForCausalLM",
        f"{_PACKAGE}.llava_phi.LlavaPhiForCausalLM",
        f"{_PACKAGE}.llava_stablelm.LlavaStablelmForCausalLM",
        f"{_PACKAGE}.llava_minicpm.LlavaMiniCPMForCausalLM",
        f"{_PACKAGE}.llava_qwen.LlavaQWenForCausalLM",
        f"{_PACKAGE}.llava_qwen1_5.LlavaQwen1_5ForCausalLM",
        f"{_PACKAGE}.llava_llama_moe.MoELLaVALlamaForCausalLM",
        f"{_PACKAGE}.llava_mistral_moe.MoELLaVAMistralForCausalLM",
        f"{_PACKAGE}.llava_phi_moe.MoELLaVAPhiForCausalLM",
        f"{_PACKAGE}.llava_stablelm_moe.MoELLaVAStablelmForCausalLM",
        f"{_PACKAGE}.llava_minicpm_moe.MoELLaVAMiniCPMForCausalLM",
        f"{_PACKAGE}.llava_qwen_moe.MoELLaVAQWenForCausalLM",
        f"{_PACKAGE}.llava_qwen1_5_moe.MoELLaVAQwen1_5ForCausalLM",
    )
