"""Tiny models of transformers' own vision-language classes, and batches as their processors make them.

Every batch has a row with one image, a text-only row padded on the right (a video in families that take videos), and a
row with two images. ``FAMILIES`` holds what this version of transformers has, 4.37 to 5.x.
"""

from __future__ import annotations

import inspect
from functools import partial

import torch
import transformers
from native_batches import (
    END,
    IGNORE,
    IMAGE,
    IMAGES,
    PAD,
    START,
    VIDEO,
    VOCABULARY,
    Family,
    accepted,
    fill_newline,
    idefics3_batch,
    pixels,
    rows,
    with_videos,
)  # fmt: skip

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
LLAVA, VIP, NEXT, NEXT_VIDEO = (
    f"{name}ForConditionalGeneration" for name in ("Llava", "VipLlava", "LlavaNext", "LlavaNextVideo")
)


def has(name: str) -> bool:
    return hasattr(transformers, name)


def llama_text() -> object:
    return transformers.LlamaConfig(**TEXT)


def clip() -> object:
    return transformers.CLIPVisionConfig(**VISION)


def merges(name: str) -> bool:
    """Whether this version's class can expand one placeholder per image in its forward (up to 4.48)."""
    return hasattr(getattr(transformers, name), "_merge_input_ids_with_image_features")


def takes_expanded(name: str) -> bool:
    """Whether it takes ids in which the processor has put a placeholder for each image row (since 4.45)."""
    config = getattr(transformers, name).config_class
    return not merges(name) or "image_seq_length" in inspect.signature(config.__init__).parameters


def build_llava_like(name: str, legacy: bool, **options) -> torch.nn.Module:
    """A model of the Llava family. While there are both ways, the number of placeholders decides (see forward)."""
    cls = getattr(transformers, name)
    if takes_expanded(name) and not legacy:
        options["image_seq_length"] = 16
    config = cls.config_class(vision_config=clip(), text_config=llama_text(), image_token_index=IMAGE, **options)
    config.pad_token_id = PAD
    return fill_newline(cls(config))


def build_llava(legacy: bool = False) -> torch.nn.Module:
    return build_llava_like(LLAVA, legacy)


def llava_batch(images: tuple[int, ...] = IMAGES, seed: int = 0, legacy: bool = False) -> dict:
    block = [IMAGE] * (1 if legacy or not takes_expanded(LLAVA) else 16)
    return {**rows(block, images, seed), "pixel_values": pixels(seed, sum(images), 3, 16, 16)}


def build_vipllava(legacy: bool = False) -> torch.nn.Module:
    return build_llava_like(VIP, legacy, vision_feature_layers=[-2, -1])


GRID = [[16, 16]]


def build_llava_next(legacy: bool = False) -> torch.nn.Module:
    return build_llava_like(NEXT, legacy, image_grid_pinpoints=GRID)


def llava_next_batch(images: tuple[int, ...] = IMAGES, seed: int = 0, legacy: bool = False) -> dict:
    """16x16 images in a 16x16 grid: 16 base rows, and 4 lines of 4 patches with a newline each."""
    count = sum(images)
    block = [IMAGE] * (1 if legacy or not takes_expanded(NEXT) else 36)
    return {
        **rows(block, images, seed),
        "pixel_values": pixels(seed, count, 2, 3, 16, 16),
        "image_sizes": torch.tensor([[16, 16]] * count),
    }


def build_llava_next_video(legacy: bool = False) -> torch.nn.Module:
    options = {"video_seq_length": 8} if takes_expanded(NEXT_VIDEO) and not legacy else {}
    return build_llava_like(NEXT_VIDEO, legacy, image_grid_pinpoints=GRID, video_token_index=VIDEO, **options)


def llava_next_video_batch(images: tuple[int, ...] = IMAGES, seed: int = 0, legacy: bool = False) -> dict:
    """As `llava_next_batch`; a row without images gets a video of 2 frames of 2 x 2 pooled patches."""
    expanded, count, videos = takes_expanded(NEXT_VIDEO) and not legacy, sum(images), images.count(0)
    inputs = rows([IMAGE] * (36 if expanded else 1), images, seed)
    if videos:
        inputs = with_videos(inputs, images, [VIDEO] * (8 if expanded else 1))
        inputs["pixel_values_videos"] = pixels(seed, videos, 2, 3, 16, 16)
    return {
        **inputs,
        "pixel_values": pixels(seed, count, 2, 3, 16, 16),
        "image_sizes": torch.tensor([[16, 16]] * count),
    }


def build_onevision() -> torch.nn.Module:
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION), text_config=transformers.Qwen2Config(**TEXT),
        image_token_index=IMAGE, video_token_index=VIDEO, image_grid_pinpoints=GRID,
    )  # fmt: skip
    return fill_newline(transformers.LlavaOnevisionForConditionalGeneration(config))


#: 4.49's forward compares the video's rows with the number of image tokens, and so takes no images beside a video.
NO_MIXED_VIDEO = transformers.__version__.startswith("4.49.")


def onevision_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """Rows of images; a row without gets a video of 2 frames: 2 * 4 pooled patches and a newline."""
    inputs, count, videos = rows([IMAGE] * 36, images, seed), sum(images), images.count(0)
    if videos and not NO_MIXED_VIDEO:
        inputs = with_videos(inputs, images, [VIDEO] * 9)
        inputs["pixel_values_videos"] = pixels(seed, videos, 2, 3, 16, 16)
    return {
        **inputs,
        "pixel_values": pixels(seed, count, 2, 3, 16, 16),
        "image_sizes": torch.tensor([[16, 16]] * count),
    }


ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
TOKENS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
}  # fmt: skip


def build_qwen(name: str, text: dict, vision: dict, *, nested: bool = False) -> torch.nn.Module:
    """Up to Qwen2.5, published configurations are flat: the text's options stand at the top."""
    cls = getattr(transformers, name)
    text = {**TEXT, "rope_parameters": ROPE, "rope_scaling": ROPE, **text}
    vision = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision}
    return cls(cls.config_class(**({"text_config": text} if nested else text), vision_config=vision, **TOKENS))


def build_qwen2_vl() -> torch.nn.Module:
    vision = {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    return build_qwen("Qwen2VLForConditionalGeneration", {}, vision)


def build_qwen2_5_vl() -> torch.nn.Module:
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "window_size": 16,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    return build_qwen("Qwen2_5_VLForConditionalGeneration", {}, vision)


def build_qwen3_vl() -> torch.nn.Module:
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    return build_qwen("Qwen3VLForConditionalGeneration", {"head_dim": 16}, vision, nested=True)


def build_glm4v() -> torch.nn.Module:
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 32, "image_size": 16, "in_channels": 3,
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    text = {"head_dim": 16, "pad_token_id": PAD, "rope_parameters": rope}
    return build_qwen("Glm4vForConditionalGeneration", text, vision, nested=True)


def qwen_batch(name: str, images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """16x16 images: a 4x4 grid of patches, merged 2x2 into 4 rows between start and end tokens.

    Rows without images have a video of one grid, but for Qwen2-VL and GLM-4V, whose row stays text.
    """
    count, videos = sum(images), images.count(0)
    inputs = rows([START, *[IMAGE] * 4, END], images, seed)
    if videos and name not in ("Qwen2VLForConditionalGeneration", "Glm4vForConditionalGeneration"):
        inputs = with_videos(inputs, images, [START, *[VIDEO] * 4, END])
        inputs["pixel_values_videos"] = pixels(seed + 1, videos * 16, 3 * 2 * 4 * 4)
        inputs["video_grid_thw"] = torch.tensor([[1, 4, 4]] * videos)
    kinds = (inputs["input_ids"] == IMAGE).int() + 2 * (inputs["input_ids"] == VIDEO).int()
    grids = {"image_grid_thw": torch.tensor([[1, 4, 4]] * count), "mm_token_type_ids": kinds}
    return accepted(name, {**inputs, **grids, "pixel_values": pixels(seed, count * 16, 3 * 2 * 4 * 4)})


def build_internvl() -> torch.nn.Module:
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        text_config=transformers.Qwen2Config(**TEXT), image_token_id=IMAGE, downsample_ratio=0.5,
    )  # fmt: skip
    return transformers.InternVLForConditionalGeneration(config)


def internvl_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    inputs = rows([START, *[IMAGE] * 4, END], images, seed)
    return {**inputs, "pixel_values": pixels(seed, sum(images), 3, 16, 16)}


def build_gemma3() -> torch.nn.Module:
    config = transformers.Gemma3Config(
        text_config={**TEXT, "head_dim": 16, "sliding_window": 64}, vision_config={**VISION},
        mm_tokens_per_image=4, boi_token_index=START, eoi_token_index=END, image_token_index=IMAGE,
    )  # fmt: skip
    model = transformers.Gemma3ForConditionalGeneration(config)
    for name, value in model.named_parameters():
        if "mm_input_projection" in name:  # made as zeros, so that every image row would be zero
            torch.nn.init.normal_(value, std=0.2)
    return model


def gemma3_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    inputs = rows([START, *[IMAGE] * 4, END], images, seed)
    return {
        **inputs,
        "token_type_ids": (inputs["input_ids"] == IMAGE).long(),
        "pixel_values": pixels(seed, sum(images), 3, 16, 16),
    }


def build_paligemma() -> torch.nn.Module:
    config = transformers.PaliGemmaConfig(
        vision_config={**VISION, "model_type": "siglip_vision_model", "projection_dim": 32, "vision_use_head": False},
        text_config={**TEXT, "head_dim": 16, "model_type": "gemma"},
        image_token_index=IMAGE, projection_dim=32, hidden_size=32, vocab_size=VOCABULARY,
    )  # fmt: skip
    return transformers.PaliGemmaForConditionalGeneration(config)


def paligemma_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    inputs = rows([IMAGE] * 16, images, seed)
    return {
        **inputs,
        "token_type_ids": (inputs["labels"] != IGNORE).long(),
        "pixel_values": pixels(seed, sum(images), 3, 16, 16),
    }


def build_mistral3() -> torch.nn.Module:
    config = transformers.Mistral3Config(
        vision_config={**VISION, "model_type": "pixtral", "head_dim": 8},
        text_config={**TEXT, "model_type": "mistral", "head_dim": 16}, image_token_index=IMAGE, spatial_merge_size=2,
        vision_feature_layer=-1,
    )  # fmt: skip
    return transformers.Mistral3ForConditionalGeneration(config)


def mistral3_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    inputs, count = rows([*[IMAGE] * 2, START, *[IMAGE] * 2, END], images, seed), sum(images)
    sizes = torch.tensor([[16, 16]] * count)
    return {**inputs, "pixel_values": pixels(seed, count, 3, 16, 16), "image_sizes": sizes}


def build_idefics3(name: str) -> torch.nn.Module:
    cls = getattr(transformers, f"{name}ForConditionalGeneration")
    config = cls.config_class(
        vision_config={**VISION}, text_config={**TEXT, "model_type": "llama", "pad_token_id": PAD},
        image_token_id=IMAGE, scale_factor=2,
    )  # fmt: skip
    return cls(config)


def build_ovis2() -> torch.nn.Module:
    vision = {**VISION, "hidden_stride": 2, "vocab_size": 40, "num_visual_indicator_tokens": 2}
    config = transformers.Ovis2Config(
        vision_config=vision, text_config={**TEXT, "model_type": "qwen2"}, image_token_id=IMAGE,
        visual_indicator_token_ids=[START, END], vocab_size=VOCABULARY, hidden_size=32,
    )  # fmt: skip
    return transformers.Ovis2ForConditionalGeneration(config)


QWEN = {f"{name}ForConditionalGeneration": build for name, build in (
    ("Qwen2VL", build_qwen2_vl), ("Qwen2_5_VL", build_qwen2_5_vl), ("Qwen3VL", build_qwen3_vl),
    ("Glm4v", build_glm4v),
)}  # fmt: skip
ALL = {
    LLAVA: Family(build_llava, llava_batch),
    VIP: Family(build_vipllava, llava_batch),
    NEXT: Family(build_llava_next, llava_next_batch),
    NEXT_VIDEO: Family(build_llava_next_video, llava_next_video_batch),
    "LlavaOnevisionForConditionalGeneration": Family(build_onevision, onevision_batch),
    **{name: Family(build, partial(qwen_batch, name)) for name, build in QWEN.items()},
    "InternVLForConditionalGeneration": Family(build_internvl, internvl_batch),
    "Gemma3ForConditionalGeneration": Family(build_gemma3, gemma3_batch),
    "PaliGemmaForConditionalGeneration": Family(build_paligemma, paligemma_batch),
    "Ovis2ForConditionalGeneration": Family(build_ovis2, internvl_batch),
    # by the generic adapter
    "Mistral3ForConditionalGeneration": Family(build_mistral3, mistral3_batch),
    "Idefics3ForConditionalGeneration": Family(partial(build_idefics3, "Idefics3"), idefics3_batch),
    "SmolVLMForConditionalGeneration": Family(partial(build_idefics3, "SmolVLM"), idefics3_batch),
}
FAMILIES = {name: family for name, family in ALL.items() if has(name)}
# 4.45 to 4.48 take ids of both kinds: what is above goes the new way there, this the old one
FAMILIES |= {
    f"{name} merging": Family(partial(build, legacy=True), partial(batch, legacy=True))
    for name, build, batch in (
        (LLAVA, build_llava, llava_batch),
        (VIP, build_vipllava, llava_batch),
        (NEXT, build_llava_next, llava_next_batch),
        (NEXT_VIDEO, build_llava_next_video, llava_next_video_batch),
    )
    if has(name) and merges(name) and takes_expanded(name)
}
