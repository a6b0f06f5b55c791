"""Tiny models of transformers' own vision-language classes, and batches as their processors make them.

Every batch has a row with one image, a text-only row padded on the right, and a row with two images. ``FAMILIES`` holds
what this version of transformers has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import transformers

PAD, IMAGE, VIDEO, START, END, VOCABULARY = 0, 60, 61, 62, 63, 64
IGNORE = -100
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
#: Images of the three rows.
IMAGES = (1, 0, 2)


class Family(NamedTuple):
    """build makes the model, the same every time (after seeding); batch the inputs of rows with so many images each."""

    build: Callable[[], torch.nn.Module]
    batch: Callable[..., dict]


def rows(block: list[int], images: tuple[int, ...], seed: int, length: int = 8) -> dict[str, torch.Tensor]:
    """Ids, mask and labels: text of ``length`` tokens (less in later rows) with ``block`` standing for each image."""
    generator = torch.Generator().manual_seed(seed)
    ids, labels = [], []
    for row, count in enumerate(images):
        text = torch.randint(3, 60, (length - row,), generator=generator)
        tokens = torch.cat([text[:1], *[torch.tensor(block)] * count, text[1:]])
        wanted = tokens.clone()
        wanted[: 1 + len(block) * count + 2] = IGNORE
        ids.append(tokens)
        labels.append(wanted)
    pad = torch.nn.utils.rnn.pad_sequence
    padded = pad(ids, batch_first=True, padding_value=PAD)
    return {
        "input_ids": padded,
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE),
    }


def pixels(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def has(name: str) -> bool:
    return hasattr(transformers, name)


def llama_text() -> object:
    return transformers.LlamaConfig(**TEXT)


def clip() -> object:
    return transformers.CLIPVisionConfig(**VISION)


def build_llava() -> torch.nn.Module:
    config = transformers.LlavaConfig(vision_config=clip(), text_config=llama_text(), image_token_index=IMAGE)
    config.pad_token_id = PAD
    return transformers.LlavaForConditionalGeneration(config)


def merges(name: str) -> bool:
    """Whether this version's class expands one placeholder per image in its forward."""
    return hasattr(getattr(transformers, name), "_merge_input_ids_with_image_features")


def llava_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    block = [IMAGE] * (1 if merges("LlavaForConditionalGeneration") else 16)
    return {**rows(block, images, seed), "pixel_values": pixels(seed, sum(images), 3, 16, 16)}


def build_vipllava() -> torch.nn.Module:
    config = transformers.VipLlavaConfig(
        vision_config=clip(), text_config=llama_text(), image_token_index=IMAGE, vision_feature_layers=[-2, -1]
    )
    config.pad_token_id = PAD
    return transformers.VipLlavaForConditionalGeneration(config)


GRID = [[16, 16]]


def build_llava_next() -> torch.nn.Module:
    config = transformers.LlavaNextConfig(
        vision_config=clip(), text_config=llama_text(), image_token_index=IMAGE, image_grid_pinpoints=GRID
    )
    config.pad_token_id = PAD
    return transformers.LlavaNextForConditionalGeneration(config)


def llava_next_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """16x16 images in a 16x16 grid: 16 base rows, and 4 lines of 4 patches with a newline each."""
    count = sum(images)
    return {
        **rows([IMAGE] * (1 if merges("LlavaNextForConditionalGeneration") else 36), images, seed),
        "pixel_values": pixels(seed, count, 2, 3, 16, 16),
        "image_sizes": torch.tensor([[16, 16]] * count),
    }


def build_onevision() -> torch.nn.Module:
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION), text_config=transformers.Qwen2Config(**TEXT),
        image_token_index=IMAGE, video_token_index=VIDEO, image_grid_pinpoints=GRID,
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def onevision_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """Rows of images; a row without gets a video of 2 frames: 2 * 4 pooled patches and a newline."""
    inputs, count, videos = rows([IMAGE] * 36, images, seed), sum(images), images.count(0)
    if videos:
        without = torch.tensor([number == 0 for number in images])[:, None]
        block = torch.where(without, VIDEO, 5).expand(-1, 9)
        ones, ids = torch.ones_like(block), inputs["input_ids"]
        inputs = {
            "input_ids": torch.cat([ids[:, :1], block, ids[:, 1:]], dim=1),
            "attention_mask": torch.cat([ones, inputs["attention_mask"]], dim=1),
            "labels": torch.cat([IGNORE * ones, inputs["labels"]], dim=1),
            "pixel_values_videos": pixels(seed, videos, 2, 3, 16, 16),
        }
    return {
        **inputs,
        "pixel_values": pixels(seed, count, 2, 3, 16, 16),
        "image_sizes": torch.tensor([[16, 16]] * count),
    }


ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
TOKENS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
}  # fmt: skip


def build_qwen2_5_vl() -> torch.nn.Module:
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": ROPE, "rope_scaling": ROPE},
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        **TOKENS,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def build_qwen3_vl() -> torch.nn.Module:
    config = transformers.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 16, "rope_parameters": ROPE, "rope_scaling": ROPE},
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 32, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        **TOKENS,
    )  # fmt: skip
    return transformers.Qwen3VLForConditionalGeneration(config)


def qwen_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """16x16 images: a 4x4 grid of patches, merged 2x2 into 4 rows between start and end tokens."""
    count = sum(images)
    inputs = rows([START, *[IMAGE] * 4, END], images, seed)
    return {
        **inputs,
        "pixel_values": pixels(seed, count * 16, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * count),
        "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
    }


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


ALL = {
    "LlavaForConditionalGeneration": Family(build_llava, llava_batch),
    "VipLlavaForConditionalGeneration": Family(build_vipllava, llava_batch),
    "LlavaNextForConditionalGeneration": Family(build_llava_next, llava_next_batch),
    "LlavaOnevisionForConditionalGeneration": Family(build_onevision, onevision_batch),
    "Qwen2_5_VLForConditionalGeneration": Family(build_qwen2_5_vl, qwen_batch),
    "Qwen3VLForConditionalGeneration": Family(build_qwen3_vl, qwen_batch),
    "InternVLForConditionalGeneration": Family(build_internvl, internvl_batch),
    "Gemma3ForConditionalGeneration": Family(build_gemma3, gemma3_batch),
    "PaliGemmaForConditionalGeneration": Family(build_paligemma, paligemma_batch),
}
FAMILIES = {name: family for name, family in ALL.items() if has(name)}
