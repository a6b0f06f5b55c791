"""transformers' own vision-language classes: the processor puts one placeholder token per image row into the ids."""

from __future__ import annotations

from typing import Any

from torch import nn

from .base import Adapter, config_placeholder_ids, register_adapter


def _names(family: str, *classes: str) -> tuple[str, ...]:
    return tuple(f"transformers.models.{family}.modeling_{family}.{name}" for name in classes)


@register_adapter("transformers")
class Native(Adapter):
    """Image positions are those of image and video tokens; the decoder always gets ``inputs_embeds``."""

    merge_method = ""
    classes = (
        *_names("llava_onevision", "LlavaOnevisionForConditionalGeneration"),
        *_names("qwen2_vl", "Qwen2VLForConditionalGeneration"),
        *_names("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
        *_names("qwen3_vl", "Qwen3VLForConditionalGeneration"),
        *_names("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"),
        *_names("internvl", "InternVLForConditionalGeneration"),
        *_names("gemma3", "Gemma3ForConditionalGeneration"),
        *_names("paligemma", "PaliGemmaForConditionalGeneration"),
    )

    def merges(self, model: nn.Module) -> bool:
        return False

    def placeholder_ids(self, model: nn.Module) -> tuple[int, ...]:
        return config_placeholder_ids(model)


@register_adapter("transformers-ovis2")
class Ovis2(Native):
    """As `Native`. Tokens around an image get embeddings of the vision model: they are neither text nor image rows."""

    classes = _names("ovis2", "Ovis2ForConditionalGeneration")

    def other_ids(self, model: nn.Module) -> tuple[int, ...]:
        ids: list[int] = model.config.visual_indicator_token_ids  # type: ignore[assignment, union-attr]
        return tuple(ids)


@register_adapter("transformers-gemma3n")
class Gemma3n(Native):
    """As `Native`. Tokens from the vision tower's offset on, such as the end of an image, get embeddings of a tower."""

    classes = _names("gemma3n", "Gemma3nForConditionalGeneration")

    def other_ids(self, model: nn.Module) -> tuple[int, ...]:
        config: Any = model.config
        special = [getattr(config, f"{name}_token_id") for name in ("boi", "eoi", "boa", "eoa", "audio")]
        return tuple(token for token in special if token >= config.vision_config.vocab_offset)


@register_adapter("transformers-llava")
class NativeLlava(Adapter):
    """As `Native`. Up to transformers 4.48 one ``<image>`` may also be a whole image, expanded in ``forward``.

    4.45 to 4.48 have both ways: both are observed, and the one that the batch takes counts.
    """

    merge_method = "_merge_input_ids_with_image_features"
    merge_returns = {
        4: ("inputs_embeds", "attention_mask", "labels", "position_ids"),
        5: ("inputs_embeds", "attention_mask", "position_ids", "labels", "input_ids"),
    }
    classes = (
        *_names("llava", "LlavaForConditionalGeneration"),
        *_names("vipllava", "VipLlavaForConditionalGeneration"),
        *_names("llava_next", "LlavaNextForConditionalGeneration"),
        *_names("llava_next_video", "LlavaNextVideoForConditionalGeneration"),
    )

    def placeholder_ids(self, model: nn.Module) -> tuple[int, ...]:
        return config_placeholder_ids(model)
