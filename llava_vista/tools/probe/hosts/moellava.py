"""MoE-LLaVA: dense language models, and the same with sparse experts, which are made when the model is made.

With experts a token's place may depend on the batch it is in: an expert takes as many tokens as its capacity allows
(`eval_capacity_factor`), and the rest pass it by. Probe with ``--batch-size 1`` where that matters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .base import register_host
from .llava_like import Kind, LlavaLikeHost


@register_host("moellava")
class MoeLlavaHost(LlavaLikeHost):
    """StableLM, QWen (v1) and MiniCPM have tokenizers and quirks of their own: not loaded."""

    repository = "PKU-YuanGroup/MoE-LLaVA"
    package = "moellava"
    kinds = {
        "llava_phi": Kind("llava_phi.LlavaPhiForCausalLM", "phi"),
        "llava_qwen1_5": Kind("llava_qwen1_5.LlavaQwen1_5ForCausalLM", "qwen"),
        "llava_llama": Kind("llava_llama.LlavaLlamaForCausalLM", "v1"),
        "llava_mistral": Kind("llava_mistral.LlavaMistralForCausalLM", "mistral"),
        # The class that trains gets its experts from the training script; this one makes them from the configuration.
        "moe_llava_phi": Kind("llava_phi_moe.EvalMoELLaVAPhiForCausalLM", "phi"),
        "moe_llava_qwen1_5": Kind("llava_qwen1_5_moe.EvalMoELLaVAQwen1_5ForCausalLM", "qwen"),
    }
    tower = "image_tower"

    def load_tokenizer(self, source: Path, kind: Kind) -> Any:
        tokenizer = super().load_tokenizer(source, kind)
        if kind.template in ("phi", "qwen"):
            tokenizer.add_special_tokens({"unk_token": "<|extra_0|>"})
            tokenizer.pad_token = tokenizer.unk_token
        return tokenizer

    def complete(self, model: nn.Module) -> None:
        experts: list[Any] = [module for module in model.modules() if hasattr(module, "set_deepspeed_parallelism")]
        if not experts:
            return
        from deepspeed import comm
        from torch import distributed
        from torch.distributed import HashStore  # type: ignore[attr-defined]

        if not distributed.is_initialized():  # DeepSpeed's experts want a group, if only of this process
            distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        if not comm.is_initialized():
            comm.init_distributed("gloo", verbose=False)
        for module in experts:
            module.set_deepspeed_parallelism()
        for module in model.modules():
            if hasattr(module, "top2_2nd_expert_sampling"):
                # DeepSpeed draws the second expert, in evaluation too: the same image twice would tell something.
                module.top2_2nd_expert_sampling = False  # type: ignore[assignment]
