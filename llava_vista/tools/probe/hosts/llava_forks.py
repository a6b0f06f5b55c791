"""LLaVA-1.5 and the repositories that grew out of it: one data sheet each."""

from __future__ import annotations

from .llava_loader import Kind, LlavaFork
from .probe_host import register_host


@register_host("llava")
class LlavaHost(LlavaFork):
    """LLaVA-1.5 (on PyPI as llava-torch), CAL and VIRAL: same package, same classes, same preprocessing."""

    repository = "haotian-liu/LLaVA, CAL or VIRAL"
    package = "llava"
    kinds = {
        "llava_llama": Kind("llava_llama.LlavaLlamaForCausalLM", "v1"),
        "llava": Kind("llava_llama.LlavaLlamaForCausalLM", "v1"),  # its name before v1.2
        "llava_mistral": Kind("llava_mistral.LlavaMistralForCausalLM", "mistral_instruct"),
        "llava_qwen2": Kind("llava_qwen2.LlavaQwen2ForCausalLM", "qwen_2"),  # VIRAL
    }
    lacks = ("model/language_model/llava_qwen.py", "model/language_model/llava_topdown_llama.py")  # LLaVA-NeXT, VILA
    aspects = ("square", "pad", "anyres")
    merges_first = True
    own_losses = ("vra_loss", "diffusion_loss")


@register_host("llava-next")
class LlavaNextHost(LlavaFork):
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
class BunnyHost(LlavaFork):
    """Phi-1.5 and Phi-2, Phi-3, Qwen1.5, StableLM-2, MiniCPM, Llama 3."""

    repository = "BAAI-DCAI/Bunny"
    package = "bunny"
    kinds = {
        "bunny-phi": Kind("bunny_phi.BunnyPhiForCausalLM", "bunny", fast=True),
        "bunny-phi3": Kind("bunny_phi3.BunnyPhi3ForCausalLM", "phi3", fast=True),
        "bunny-qwen2": Kind("bunny_qwen.BunnyQwen2ForCausalLM", "bunny", fast=True),
        "bunny-stablelm": Kind("bunny_stablelm.BunnyStableLMForCausalLM", "bunny", fast=True),
        "bunny-minicpm": Kind("bunny_minicpm.BunnyMiniCPMForCausalLM", "minicpm", fast=True),
        "bunny-llama": Kind("bunny_llama.BunnyLlamaForCausalLM", "llama", fast=True, end_id=128001),
    }
    training = "util.data_utils"
    utilities = "util.mm_utils"
    keeps_pad_token = True


@register_host("sharegpt4v")
class ShareGpt4VHost(LlavaFork):
    """LLaVA as it was before 1.1.2."""

    repository = "ShareGPT4Omni/ShareGPT4V"
    package = "share4v"
    kinds = {"share4v": Kind("share4v_llama.Share4VLlamaForCausalLM", "v1")}


@register_host("videollava")
class VideoLlavaHost(LlavaFork):
    """Images only."""

    repository = "PKU-YuanGroup/Video-LLaVA"
    package = "videollava"
    kinds = {"llava": Kind("llava_llama.LlavaLlamaForCausalLM", "v1")}
    tower = "image_tower"


@register_host("moellava")
class MoeLlavaHost(LlavaFork):
    """Dense language models, and the same with sparse experts. StableLM, QWen (v1) and MiniCPM are not loaded.

    An expert takes as many tokens as its capacity allows (`eval_capacity_factor`) and drops the rest, so a token's
    value may depend on the batch that it is in. Probe with ``--batch-size 1`` where that matters.
    """

    repository = "PKU-YuanGroup/MoE-LLaVA"
    package = "moellava"
    kinds = {
        "llava_phi": Kind("llava_phi.LlavaPhiForCausalLM", "phi", unknown_token="<|extra_0|>"),
        "llava_qwen1_5": Kind("llava_qwen1_5.LlavaQwen1_5ForCausalLM", "qwen", unknown_token="<|extra_0|>"),
        "llava_llama": Kind("llava_llama.LlavaLlamaForCausalLM", "v1"),
        "llava_mistral": Kind("llava_mistral.LlavaMistralForCausalLM", "mistral"),
        # The class that trains gets its experts from the training script; this one makes them from the configuration.
        "moe_llava_phi": Kind("llava_phi_moe.EvalMoELLaVAPhiForCausalLM", "phi", unknown_token="<|extra_0|>"),
        "moe_llava_qwen1_5": Kind(
            "llava_qwen1_5_moe.EvalMoELLaVAQwen1_5ForCausalLM", "qwen", unknown_token="<|extra_0|>"
        ),
    }
    tower = "image_tower"
