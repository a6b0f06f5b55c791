"""LLaVA-1.5 (haotian-liu/LLaVA; on PyPI as llava-torch) and the repositories that keep its package and merge method.

LLaVA-NeXT (LLaVA-VL/LLaVA-NeXT), Open-LLaVA-NeXT (xiaoachen98/Open-LLaVA-NeXT), FastVLM (apple/ml-fastvlm), CAL
(foundation-multimodal-models/CAL), VIRAL (cvlab-kaist/VIRAL) and ViP-LLaVA (WisconsinAIVision/ViP-LLaVA) share the
package name ``llava`` and most class names, so they share this sheet. VILA has the package name too, but other classes
and another merge method: see vila.py.
"""

from __future__ import annotations

from torch import nn

from .base import Adapter, register_adapter

_PACKAGE = "llava.model.language_model"


@register_adapter("llava")
class Llava(Adapter):
    """Image features replace placeholders in ``prepare_inputs_labels_for_multimodal``, which returns six values.

    CAL labels image positions -300 and runs the decoder twice (first without gradients); VIRAL returns the expanded
    ids as the first value. Neither matters here.
    """

    classes = (
        f"{_PACKAGE}.llava_llama.LlavaLlamaForCausalLM",
        f"{_PACKAGE}.llava_mistral.LlavaMistralForCausalLM",
        f"{_PACKAGE}.llava_mpt.LlavaMptForCausalLM",
        # LLaVA-NeXT
        f"{_PACKAGE}.llava_qwen.LlavaQwenForCausalLM",
        f"{_PACKAGE}.llava_qwen_moe.LlavaQwenMoeForCausalLM",
        f"{_PACKAGE}.llava_mixtral.LlavaMixtralForCausalLM",
        f"{_PACKAGE}.llava_gemma.LlavaGemmaForCausalLM",
        # VIRAL, ml-fastvlm, ViP-LLaVA
        f"{_PACKAGE}.llava_qwen2.LlavaQwen2ForCausalLM",
        f"{_PACKAGE}.llava_qwen.LlavaQwen2ForCausalLM",
        f"{_PACKAGE}.llava_phi3.LlavaPhi3ForCausalLM",
    )

    def decoder(self, model: nn.Module) -> nn.Module:
        decoder: nn.Module = model.get_model()  # type: ignore[operator]
        return decoder
