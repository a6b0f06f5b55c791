"""LLaVA-1.5 and its relatives: one data sheet each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import register_host
from .llava_like import Kind, LlavaLikeHost


@register_host("llava")
class LlavaHost(LlavaLikeHost):
    """LLaVA-1.5 (on PyPI as llava-torch), CAL and VIRAL: same package, same classes, same preprocessing."""

    repository = "haotian-liu/LLaVA, CAL or VIRAL"
    package = "llava"
    kinds = {
        "llava_llama": Kind("llava_llama.LlavaLlamaForCausalLM", "v1"),
        "llava": Kind("llava_llama.LlavaLlamaForCausalLM", "v1"),  # as it was called before v1.2
        "llava_mistral": Kind("llava_mistral.LlavaMistralForCausalLM", "mistral_instruct"),
        "llava_qwen2": Kind("llava_qwen2.LlavaQwen2ForCausalLM", "qwen_2"),  # VIRAL
    }
    lacks = ("model/language_model/llava_qwen.py", "model/language_model/llava_topdown_llama.py")  # LLaVA-NeXT, VILA
    aspects = ("square", "pad", "anyres")
    merges_first = True
    own_losses = ("vra_loss", "diffusion_loss")


@register_host("llava-next")
class LlavaNextHost(LlavaLikeHost):
    """Its Mistral and Gemma classes cannot be run: they pass ``image_sizes`` as ``modalities``."""

    repository = "LLaVA-VL/LLaVA-NeXT"
    package = "llava"
    kinds = {
        "llava_qwen": Kind("llava_qwen.LlavaQwenForCausalLM", "qwen_1_5", fast=True),
        "llava_qwen_moe": Kind("llava_qwen_moe.LlavaQwenMoeForCausalLM", "qwen_1_5", fast=True),
        "llava_llama": Kind("llava_llama.LlavaLlamaForCausalLM", "v1"),
        "llava_mixtral": Kind("llava_mixtral.LlavaMixtralForCausalLM", "mistral_instruct", fast=True),
    }
    holds = ("model/language_model/llava_qwen.py",)
    aspects = None
    merges_first = True


@register_host("bunny")
class BunnyHost(LlavaLikeHost):
    """Phi-1.5 and Phi-2, Phi-3, Qwen1.5, StableLM-2, MiniCPM, Llama 3."""

    repository = "BAAI-DCAI/Bunny"
    package = "bunny"
    kinds = {
        "bunny-phi": Kind("bunny_phi.BunnyPhiForCausalLM", "bunny", fast=True),
        "bunny-phi3": Kind("bunny_phi3.BunnyPhi3ForCausalLM", "phi3", fast=True),
        "bunny-qwen2": Kind("bunny_qwen.BunnyQwen2ForCausalLM", "bunny", fast=True),
        "bunny-stablelm": Kind("bunny_stablelm.BunnyStableLMForCausalLM", "bunny", fast=True),
        "bunny-minicpm": Kind("bunny_minicpm.BunnyMiniCPMForCausalLM", "minicpm", fast=True),
        "bunny-llama": Kind("bunny_llama.BunnyLlamaForCausalLM", "llama", fast=True),
    }
    training = "util.data_utils"
    utilities = "util.mm_utils"

    def load_tokenizer(self, source: Path, kind: Kind) -> Any:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(source, use_fast=kind.fast)
        if kind.template == "llama":
            tokenizer.eos_token_id = 128001
            tokenizer.pad_token = tokenizer.eos_token
        elif tokenizer.unk_token is not None and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.unk_token
        return tokenizer


@register_host("sharegpt4v")
class ShareGpt4VHost(LlavaLikeHost):
    """LLaVA as it was before 1.1.2."""

    repository = "ShareGPT4Omni/ShareGPT4V"
    package = "share4v"
    kinds = {"share4v": Kind("share4v_llama.Share4VLlamaForCausalLM", "v1")}


@register_host("videollava")
class VideoLlavaHost(LlavaLikeHost):
    """Images only."""

    repository = "PKU-YuanGroup/Video-LLaVA"
    package = "videollava"
    kinds = {"llava": Kind("llava_llama.LlavaLlamaForCausalLM", "v1")}
    tower = "image_tower"
