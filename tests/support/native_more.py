"""Tiny models of transformers' other image-text classes, one table entry per class, for `scripts/hosts/native_classes.py`.

A configuration is the class's own, made small by `TINY`; a sheet has what is special. Batches are those of
`native_models`: a row with one image, one without (a video or a sound where the class takes them), one with two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import transformers
from native_models import (
    END, IMAGE, IMAGES, PAD, START, VIDEO, VOCABULARY, Family, accepted, fill_newline, idefics3_batch, pixels, rows,
    with_videos,
)  # fmt: skip

AUDIO = 64
#: Sizes under the names that configurations use. Each part of a configuration takes those that it has.
TINY: dict[str, Any] = {
    **dict.fromkeys(
        "hidden_size intermediate_size out_hidden_size d_model encoder_ffn_dim output_dim projection_dim "
        "projector_hidden_size projection_hidden_size projection_hidden_dim text_hidden_size mlp_dim "
        "dense_intermediate_size shared_intermediate_size alignment_intermediate_size vision_output_dim "
        "projector_input_dim projector_output_dim intermediate_size_mlp encoder_hidden_size adapter_in_dim "
        "adapter_out_dim projection_intermediate_size moe_hidden_size downsample_hidden_size".split(), 32,
    ),
    **dict.fromkeys(
        "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size share_expert_dim "
        "head_dim swa_head_dim v_head_dim image_size num_position_embeddings num_patches index_head_dim "
        "linear_head_dim num_image_tokens indexer_head_dim".split(), 16,
    ),
    **dict.fromkeys(
        "kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim linear_key_head_dim linear_value_head_dim "
        "num_mel_bins d_rel hc_lowrank".split(), 8,
    ),
    **dict.fromkeys(
        "patch_size num_experts num_local_experts n_routed_experts moe_num_experts pos_emb_height pos_emb_width "
        "mm_tokens_per_image posemb_grid_size".split(), 4,
    ),
    **dict.fromkeys(
        "num_hidden_layers num_attention_heads num_key_value_heads depth num_heads encoder_layers "
        "encoder_attention_heads spatial_merge_size temporal_patch_size num_experts_per_tok linear_num_key_heads "
        "linear_num_value_heads swa_num_attention_heads swa_num_key_value_heads linear_num_heads index_n_heads "
        "num_sliding_attention_heads top_k_experts indexer_n_heads".split(), 2,
    ),
    **dict.fromkeys("dropout hidden_dropout_prob attention_probs_dropout_prob projector_dropout drop_path_rate".split(), 0.0),
    "initializer_range": 0.05,
    **dict.fromkeys("n_group topk_group n_shared_experts first_k_dense_replace".split(), 1),
    **dict.fromkeys("vocab_size".split(), VOCABULARY + 4), "max_position_embeddings": 256, "sliding_window": 64,
    "window_size": 16, "fullatt_block_indexes": [1], "deepstack_visual_indexes": [0],
    **{f"{name}_token_{suffix}": token for suffix in ("id", "index") for name, token in {
        "image": IMAGE, "video": VIDEO, "audio": AUDIO, "vision_start": START, "vision_end": END, "image_start": START,
        "image_end": END, "video_start": 65, "video_end": 66, "boi": START, "eoi": END, "pad": PAD, "bos": 1,
        "eos": 2,
    }.items()},
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}


class Part(NamedTuple):
    """A modality: the tokens of one image, and its inputs by name (a shape of random numbers, or a list of values).

    The first dimension is multiplied by the number of images.
    """

    block: list[int]
    inputs: dict[str, tuple[int, ...] | list]

    def make(self, count: int, seed: int) -> dict[str, torch.Tensor]:
        made = {}
        for name, value in self.inputs.items():
            if isinstance(value, tuple):
                value = pixels(seed, count * value[0], *value[1:])
            made[name] = torch.tensor(value * count) if isinstance(value, list) else value
        return made


class Sheet(NamedTuple):
    """config: special options, nested as in the configuration. image, video, audio: what a batch holds."""

    config: dict[str, Any]
    image: Part | Callable[..., dict]
    video: Part | None = None
    audio: Part | None = None


def tiny(config: Any, special: dict[str, Any]) -> Any:
    """The same configuration, made small, with special options."""
    values = {name: value for name, value in TINY.items() if vars(config).get(name) is not None}
    for name, part in vars(config).items():
        own = special.get(name)
        if isinstance(own, dict) and "model_type" in own:
            part = transformers.AutoConfig.for_model(own["model_type"])
        if isinstance(part, transformers.PretrainedConfig):
            values[name] = tiny(part, own or {})
    parts = {name for name, value in values.items() if isinstance(value, transformers.PretrainedConfig)}
    return type(config)(**{**values, **{key: value for key, value in special.items() if key not in parts}})


class Tower(torch.nn.Module):
    """Stands for a vision tower of timm, which needs torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 8, 8)

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.conv(pixel_values))


@contextmanager
def without_timm() -> Iterator[None]:
    module, auto = transformers.models.gemma3n.modeling_gemma3n, transformers.AutoModel

    def from_config(config: Any) -> torch.nn.Module:
        return Tower() if "architecture" in vars(config) else auto.from_config(config)

    with mock.patch.object(module, "AutoModel", SimpleNamespace(from_config=from_config)):
        yield


def build(name: str) -> torch.nn.Module:
    cls = getattr(transformers, name)
    config = tiny(cls.config_class(), SHEETS[name].config)
    if name.startswith("Llama4"):  # its forward reads what its decoder's output has not
        transformers.modeling_outputs.MoeCausalLMOutputWithPast.image_outputs = None
    with without_timm() if name.startswith("Gemma3n") else nullcontext():
        return fill_newline(cls(config))


def batch(name: str, images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    sheet = SHEETS[name]
    if not isinstance(sheet.image, Part):
        return accepted(name, sheet.image(images, seed))
    inputs = {**rows(sheet.image.block, images, seed), **sheet.image.make(sum(images), seed)}
    if sheet.video and 0 in images:
        inputs |= with_videos(inputs, images, sheet.video.block) | sheet.video.make(images.count(0), seed + 1)
    if sheet.audio and len(images) > 1:  # beside an image and without
        inputs |= with_videos(inputs, (0, 0, *[1] * (len(images) - 2)), sheet.audio.block)
        inputs |= sheet.audio.make(2, seed + 2)
    ids = inputs["input_ids"]
    kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int() + 3 * (ids == AUDIO).int()
    return accepted(name, {"mm_token_type_ids": kinds, "token_type_ids": (ids == IMAGE).long(), **inputs})


def flat(rows_per_image: int = 16, **extra: Any) -> Part:
    """Images of 16x16, all of one batch in one tensor."""
    return Part([IMAGE] * rows_per_image, {"pixel_values": (1, 3, 16, 16), **extra})


GRID = Part(
    [START, *[IMAGE] * 4, END], {"pixel_values": (16, 3 * 2 * 4 * 4), "image_grid_thw": [[1, 4, 4]]},
)  # fmt: skip
VIDEO_GRID = Part(
    [START, *[VIDEO] * 4, END], {"pixel_values_videos": (16, 3 * 2 * 4 * 4), "video_grid_thw": [[1, 4, 4]], "video_second_per_grid": [1.0]},
)  # fmt: skip


def patches(*shape: int, **extra: Any) -> Part:
    """Images of 4x4 patches, merged 2x2 into 4 rows."""
    return Part([START, *[IMAGE] * 4, END], {"pixel_values": shape, **extra})


def fuyu_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """Images of 4x4 patches, as lists of patches by image."""
    return {**rows([IMAGE] * 16, images, seed), "pixel_values": pixels(seed, sum(images), 16, 48)}


def docling_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """Tiles by row, with a mask of those that are none."""
    inputs = idefics3_batch(images, seed)
    real = torch.arange(max(images))[None] < torch.tensor(images)[:, None]
    return {**inputs, "pixel_attention_mask": real}




def minicpm_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """Patches of all images side by side in one image."""
    count = sum(images)
    sizes = torch.tensor([[4, 4]] * count)
    inputs = rows([START, *[IMAGE] * 4, END], images, seed)
    kinds = (inputs["input_ids"] == IMAGE).int()
    return {
        **inputs, "pixel_values": pixels(seed, 1, 3, 4, count * 64), "target_sizes": sizes, "mm_token_type_ids": kinds,
    }  # fmt: skip


def blip_video_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """A video of two frames for each image."""
    ids = torch.tensor([[5, 6, 7]] * sum(images))
    return {**rows([VIDEO] * 8, images, seed), "pixel_values": pixels(seed, sum(images), 2, 3, 16, 16), "qformer_input_ids": ids}


def pi0_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    inputs = docling_batch(images, seed)
    return {**rows([IMAGE] * 16, images, seed), "pixel_values": inputs["pixel_values"], "pixel_attention_mask": inputs["pixel_attention_mask"], "state": pixels(seed, len(images), 32), "actions": pixels(seed, len(images), 50, 32)}


def sound(length: int) -> Part:
    """A spectrogram of so many frames, two rows long after the encoder."""
    return Part([65, AUDIO, AUDIO, 66], {"input_features": (1, 8, length), "feature_attention_mask": [[1] * length]})


OMNI = {"vision_start_token_id": START, "audio_start_token_id": 65, "audio_end_token_id": 66}
IMAGE_TOKEN = "<image>"
SAM = {"image_size": 64, "global_attn_indexes": [1], "window_size": 2, "output_channels": 8, "downsample_channels": [8, 8]}
HYBRID = {"layer_types": ["linear_attention", "full_attention"], "rope_parameters": {**MROPE, "mrope_interleaved": True}}
RESNET = {"model_type": "resnet", "hidden_size": 32, "embedding_size": 8, "hidden_sizes": [8, 32], "depths": [1, 1], "layer_type": "basic"}
BLIP = {
    "image_token_index": IMAGE, "num_query_tokens": 4, "image_text_hidden_size": 16,
    "text_config": {"ffn_dim": 32, "word_embed_proj_dim": 32, "pad_token_id": 0},
    "qformer_config": {"encoder_hidden_size": 32},
}  # fmt: skip
MINICPM = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "insert_layer_id": 0, "text_config": HYBRID,
    "vision_config": {"insert_layer_id": 0}, "downsample_mode": "4x",
}  # fmt: skip
NEMOTRON = {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"], "ssm_state_size": 8, "mamba_num_heads": 2,
    "mamba_head_dim": 16, "n_groups": 1, "expand": 1, "moe_shared_expert_intermediate_size": 16,
}  # fmt: skip
XY = [[[x, y] for y in range(4) for x in range(4)]]
TINY_VQ = {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 8, "embed_dim": 8}
SIZES = {"image_sizes": [[16, 16]]}
GLM = {"text_config": {"rope_parameters": MROPE}}
NO_HEAD = {"vision_config": {"vision_use_head": False}}
LLAMA = {"text_config": {"model_type": "llama"}}

SHEETS: dict[str, Sheet] = {
    name if "For" in name or name.endswith("V3") else f"{name}ForConditionalGeneration": sheet for name, sheet in {
        "Qwen3VLMoe": Sheet({"text_config": {"rope_parameters": MROPE}}, GRID, VIDEO_GRID),
        "Qwen3_5": Sheet({"text_config": HYBRID}, GRID, VIDEO_GRID),
        "Qwen3_5Moe": Sheet({"text_config": HYBRID}, GRID, VIDEO_GRID),
        "Qwen4Exp": Sheet({"text_config": {**HYBRID, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64, "indexer_compress_ratio": 4}}, GRID, VIDEO_GRID),
        "Glm4vMoe": Sheet(GLM, GRID),
        "Glm46V": Sheet(GLM, GRID),
        "GlmOcr": Sheet(GLM, GRID),
        "Glm5Next": Sheet({"text_config": {"qk_rope_head_dim": 0, "layer_types": ["linear_attention", "indexed_attention"]}}, GRID),
        "Cosmos3Omni": Sheet({"text_config": {"rope_parameters": MROPE}}, GRID, VIDEO_GRID),
        "Cosmos3Edge": Sheet({"text_config": {"rope_parameters": MROPE}}, patches(16, 48, image_grid_thw=[[1, 4, 4]])),
        "CohereCompass": Sheet({"text_config": {"layer_types": ["sliding_attention", "full_attention"], "rope_parameters": {"sliding_attention": MROPE, "full_attention": MROPE}}}, GRID, VIDEO_GRID),
        "Ernie4_5_VLMoe": Sheet({"text_config": {"moe_intermediate_size": [16, 16], "moe_k": 2, "rope_parameters": {**MROPE, "mrope_section": [3, 3, 2]}}}, patches(16, 48, image_grid_thw=[[1, 4, 4]]), Part([START, *[VIDEO] * 4, END], {"pixel_values_videos": (32, 48), "video_grid_thw": [[2, 4, 4]]})),
        "Exaone4_5_": Sheet({}, GRID, VIDEO_GRID),
        "HYV4VL": Sheet({"text_config": {"rope_parameters": {**MROPE, "mrope_section": [1, 1, 2]}}, "vision_config": {"max_image_size": 16}}, Part([START, *[IMAGE] * 6, END], {"pixel_values": (16, 48), "image_grid_thw": [[1, 4, 4]]})),
        "HunYuanVL": Sheet({"text_config": {"head_dim": 16, "rope_parameters": MROPE}, "vision_config": {"max_image_size": 16}}, Part([START, *[IMAGE] * 8, END], {"pixel_values": (16, 48), "image_grid_thw": [[1, 4, 4]]})),
        "HyperCLOVAXVisionV2": Sheet({}, GRID, VIDEO_GRID),
        "Kimi_K25": Sheet({"text_config": {"head_dim": 8}}, patches(16, 3, 4, 4, image_grid_thw=[[1, 4, 4]]), Part([VIDEO] * 4, {"pixel_values_videos": (16, 3, 4, 4), "video_grid_thw": [[1, 4, 4]]})),
        "Lfm3Vl": Sheet({"text_config": {"layer_types": ["conv", "full_attention"]}, "vision_config": {"layer_types": ["conv", "full_attention"]}}, GRID, VIDEO_GRID),
        "MiniMaxM3Sparse": Sheet({}, GRID, VIDEO_GRID),
        "MuseGlimmer": Sheet({"out_hidden_size": 128}, GRID, VIDEO_GRID),
        "MuseSpark": Sheet({"out_hidden_size": 128, "audio_config": {"num_hidden_layers": 4, "hidden_sizes": [8, 8, 8, 8]}}, GRID, VIDEO_GRID),
        "PaddleOCRVL": Sheet({"text_config": {"rope_parameters": MROPE}}, patches(16, 3, 4, 4, image_grid_thw=[[1, 4, 4]])),
        "VideoLlama3": Sheet({}, patches(16, 48, image_grid_thw=[[1, 4, 4]], image_merge_sizes=[2]), Part([VIDEO] * 4, {"pixel_values_videos": (16, 48), "video_grid_thw": [[1, 4, 4]], "video_merge_sizes": [2], "video_compression_mask": [True] * 4})),
        "Inkling2": Sheet({"text_config": {"unpadded_vocab_size": 68}}, Part([IMAGE] * 4, {"pixel_values": (4, 8, 8, 3), "image_grid_thw": [[1, 2, 2]]})),
        "Inkling2Loop": Sheet({"text_config": {"unpadded_vocab_size": 68}}, Part([IMAGE] * 4, {"pixel_values": (4, 8, 8, 3), "image_grid_thw": [[1, 2, 2]]})),
        "Dots3Note": Sheet({"vision_config": {"mlp_layer_types": ["dense", "sparse"]}, "audio_config": {"adapter_input_size": 32}}, patches(16, 48, image_grid_thw=[[1, 4, 4]])),
        "Qwen2_5OmniThinker": Sheet({"text_config": {"rope_parameters": MROPE}, **OMNI}, GRID, VIDEO_GRID, sound(8)),
        "Qwen3OmniMoeThinker": Sheet({"text_config": {"rope_parameters": MROPE}, **OMNI}, GRID, VIDEO_GRID, sound(16)),
        "Aria": Sheet({"projector_patch_to_query_dict": {16: 4}}, flat(4)),
        "AyaVision": Sheet({}, flat(4)),
        "Cohere2Vision": Sheet({}, flat(4)),
        "DeepseekVL": Sheet({}, flat()),
        "DeepseekVLHybrid": Sheet({"high_res_vision_config": {"image_size": 64, "global_attn_indexes": [1], "window_size": 2, "output_channels": 8}}, flat(high_res_pixel_values=(1, 3, 64, 64))),
        "GotOcr2": Sheet({"vision_config": {"output_channels": 8, "image_size": 32, "global_attn_indexes": [1], "window_size": 2}}, Part([IMAGE] * 4, {"pixel_values": (1, 3, 32, 32)})),
        "Janus": Sheet({"vq_config": {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 8, "num_embeddings": 16, "embed_dim": 8, "image_token_embed_dim": 32}}, flat()),
        "Idefics2": Sheet({"perceiver_config": {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 16}}, idefics3_batch),
        "Llama4": Sheet({"vision_config": {"intermediate_size": 128, "vision_feature_select_strategy": "full"}}, flat(4)),
        "LightOnOcr": Sheet({}, flat(4, **SIZES)),
        "MistralLarge4": Sheet({}, flat(4, **SIZES)),
        "QianfanOCR": Sheet({}, flat(4)),
        "Lfm2Vl": Sheet({"text_config": {"layer_types": ["conv", "full_attention"]}}, Part([IMAGE] * 4, {"pixel_values": (1, 16, 48), "spatial_shapes": [[4, 4]], "pixel_attention_mask": [[1] * 16]})),
        "VideoLlava": Sheet({}, flat(), Part([VIDEO] * 34, {"pixel_values_videos": (1, 2, 3, 16, 16)})),
        "PerceptionLM": Sheet({"vision_config": {"model_type": "clip_vision_model", "model_args": {"embed_dim": 32}}}, flat(pixel_values=(1, 1, 3, 16, 16))),
        "Chameleon": Sheet({"vocabulary_map": {IMAGE_TOKEN: IMAGE, **{f"IMGIMG{chr(65 + code)}Z": 68 + code for code in range(10)}}, "vocab_size": 84, "vq_config": {**TINY_VQ, "resolution": 16, "num_embeddings": 10}}, flat(256)),
        "Emu3": Sheet({"vocabulary_map": {IMAGE_TOKEN: IMAGE, "<|extra_200|>": 67, **{f"<|visual token {code:06}|>": 68 + code for code in range(16)}}, "text_config": {"vocab_size": 84, "attention_dropout": 0.0}, "vq_config": {**TINY_VQ, "codebook_size": 16, "attn_resolutions": [1]}}, flat(272, **SIZES)),
        "Gemma3n": Sheet({"text_config": {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0], "intermediate_size": [32, 32], "laurel_rank": 4, "vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8}, "vision_config": {"vocab_size": 2, "vocab_offset": 68}, "audio_config": {"vocab_size": 2, "vocab_offset": 70}, "vision_soft_tokens_per_image": 4}, flat(4)),
        "Blip2": Sheet(BLIP, flat(4)),
        "InstructBlip": Sheet(BLIP, flat(4, qformer_input_ids=[[5, 6, 7]])),
        "InstructBlipVideo": Sheet(BLIP | {"video_token_index": VIDEO}, blip_video_batch),
        "MiniCPMOcr": Sheet(MINICPM, minicpm_batch),
        "MiniCPMV4_6": Sheet(MINICPM, minicpm_batch),
        "MiniCPMV4_7": Sheet(MINICPM, minicpm_batch),
        "NemotronH_Omni_Reasoning_V3": Sheet({"image_token_id": IMAGE, "vision_hidden_size": 32, "text_config": NEMOTRON, "vision_config": {"max_img_size": 16, "video_temporal_patch_size": 2}}, Part([START, *[IMAGE] * 4, END], {"pixel_values": (16, 48), "image_grid_hw": [[4, 4]]})),
        "DiffusionGemmaForBlockDiffusion": Sheet({"text_config": {"global_head_dim": 16, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}, "vision_config": {"model_type": "gemma4_vision", "pooling_kernel_size": 2, "position_embedding_size": 16}}, Part([IMAGE] * 4, {"pixel_values": (1, 16, 48), "image_position_ids": XY})),
        "Gemma4": Sheet({"text_config": {"global_head_dim": 16, "vocab_size_per_layer_input": 68, "hidden_size_per_layer_input": 8}, "vision_config": {"model_type": "gemma4_vision", "pooling_kernel_size": 2, "position_embedding_size": 16}, "audio_config": {"model_type": "gemma4_audio", "output_proj_dims": 32}}, Part([IMAGE] * 4, {"pixel_values": (1, 16, 48), "image_position_ids": XY}), Part([VIDEO] * 4, {"pixel_values_videos": (1, 16, 48), "video_position_ids": XY, "num_frames_per_video": [1]}), Part([AUDIO] * 2, {"input_features": (1, 8, 128), "input_features_mask": [[True] * 8]})),
        "FuyuForCausalLM": Sheet({}, fuyu_batch),
        "Molmo2": Sheet({"image_patch_id": IMAGE, "vision_config": {"image_size": [16, 16]}, "adapter_config": {"vision_feature_layer": [-1, -2], "initializer_range": 0.5}, "text_config": {"additional_vocab_size": 8}}, Part([IMAGE] * 4, {"pixel_values": (1, 16, 48), "image_token_pooling": [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]], "image_grids": [[2, 2, 0, 0]], "image_num_crops": [1]})),
        "Step3p7": Sheet({"text_config": {"sliding_window": 64}}, flat(1)),
        "GraniteDocling": Sheet({"vision_config": {"scale_factor": 2}}, docling_batch),
        "Granite4Vision": Sheet({"vision_config": {"hidden_size": 64}, "downsample_rate": "1/2", "deepstack_layer_map": [[-1, 0]], "spatial_target_layers": [1, 1, 1, 1], "image_grid_pinpoints": [[16, 16]], "vision_feature_select_strategy": "default"}, flat(10, pixel_values=(1, 2, 3, 16, 16), **SIZES)),
        "Inkling": Sheet({"vision_config": {"n_layers": 4}}, Part([IMAGE] * 4, {"pixel_values": (4, 2, 4, 4, 3)}), None, Part([AUDIO] * 4, {"audio_input_ids": [[[1] * 80] * 4]})),
        "PI0": Sheet({}, pi0_batch),
        "DeepseekOcr2": Sheet({"vision_config": {"sam_config": {**SAM, "downsample_channels": [8, 32]}, "encoder_config": {}}, "text_config": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse"]}}, Part([IMAGE] * 145, {"pixel_values": (1, 3, 64, 64)})),
        "UnlimitedOcr": Sheet({"vision_config": {"sam_config": {**SAM, "downsample_channels": [8, 32]}, "encoder_config": {}}}, Part([IMAGE] * 21, {"pixel_values": (1, 3, 64, 64)})),
        "Apertus1p5": Sheet({"image_token_offset": 68, "audio_token_offset": 84, "text_config": {"vocab_size": 128}, "vision_config": {**TINY_VQ, "embed_dim": 8, "codebook_size": 16, "resolution": 16, "attn_resolutions": [1]}, "audio_config": {"codebook_size": 16, "hidden_size": 512}}, flat(256, **SIZES)),
        "Gemma4Unified": Sheet({"text_config": {"global_head_dim": 16}, "vision_config": {"model_type": "gemma4_unified_vision", "pooling_kernel_size": 2, "mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 32}}, Part([IMAGE] * 16, {"pixel_values": (1, 16, 192), "image_position_ids": XY})),
        "FastVlm": Sheet({"vision_config": RESNET}, flat(4)),
    }.items()
}  # fmt: skip
MORE = {
    name: Family(partial(build, name), partial(batch, name)) for name in SHEETS if hasattr(transformers, name)
}  # fmt: skip
