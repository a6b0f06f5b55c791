"""Tiny models of transformers' other image-text classes, for `scripts/hosts/native_classes.py`.

A sheet has what is special about a class: options of its configuration, which `TINY` makes small, and what a batch
holds. Batches are those of `native_models`: a row with one image, one without (a video where the class takes videos, a
sound where it takes sounds, also beside the image), and one with two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import native_batches
import torch
import transformers
from native_batches import (
    AUDIO,
    END,
    IMAGE,
    IMAGES,
    NEWLINE,
    PAD,
    START,
    VIDEO,
    VIDEO_END,
    VIDEO_START,
    Family,
    Part,
    accepted,
    by_row,
    fill_newline,
    film,
    flat,
    grid,
    idefics3_batch,
    rows,
    side_by_side,
    sound,
    with_videos,
)  # fmt: skip

VOCABULARY = native_batches.VOCABULARY + 4
#: Sizes under the names that configurations use. Each part of a configuration takes those that it has.
TINY: dict[str, Any] = {name: size for size, names in {
    64: "sliding_window",
    32: "hidden_size intermediate_size out_hidden_size d_model encoder_ffn_dim output_dim projection_dim mlp_dim "
        "projector_hidden_size projection_hidden_size projection_hidden_dim text_hidden_size dense_intermediate_size "
        "shared_intermediate_size alignment_intermediate_size vision_output_dim projector_input_dim adapter_out_dim "
        "projector_output_dim intermediate_size_mlp encoder_hidden_size adapter_in_dim adapter_input_size "
        "projection_intermediate_size moe_hidden_size downsample_hidden_size vision_hidden_size",
    16: "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size share_expert_dim "
        "head_dim swa_head_dim v_head_dim image_size num_position_embeddings num_patches index_head_dim window_size "
        "linear_head_dim num_image_tokens max_image_size max_img_size moe_shared_expert_intermediate_size",
    8: "kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim linear_key_head_dim linear_value_head_dim d_rel "
       "num_mel_bins hc_lowrank",
    4: "patch_size num_experts num_local_experts n_routed_experts moe_num_experts pos_emb_height pos_emb_width "
       "mm_tokens_per_image posemb_grid_size",
    2: "num_hidden_layers num_attention_heads num_key_value_heads depth num_heads encoder_layers index_n_heads "
       "encoder_attention_heads spatial_merge_size temporal_patch_size num_experts_per_tok linear_num_key_heads "
       "linear_num_value_heads linear_num_heads swa_num_attention_heads swa_num_key_value_heads "
       "num_sliding_attention_heads conf_num_hidden_layers conf_num_attention_heads",
    1: "n_group topk_group n_shared_experts first_k_dense_replace",
    0.0: "dropout hidden_dropout_prob attention_probs_dropout_prob projector_dropout drop_path_rate attention_dropout",
}.items() for name in names.split()}  # fmt: skip
TINY |= {
    "vocab_size": VOCABULARY, "max_position_embeddings": 256, "initializer_range": 0.05, "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [0],
}  # fmt: skip
TINY |= {f"{name}_token_{suffix}": token for suffix in ("id", "index") for name, token in {
    "image": IMAGE, "video": VIDEO, "audio": AUDIO, "vision_start": START, "vision_end": END, "image_start": START,
    "image_end": END, "video_start": VIDEO_START, "video_end": VIDEO_END, "boi": START, "eoi": END, "pad": PAD,
    "bos": 1, "eos": 2,
}.items()}  # fmt: skip


class Sheet(NamedTuple):
    """config: special options, nested as in the configuration. image, video, audio: what a batch holds."""

    config: dict[str, Any]
    image: Part | Callable[..., dict]
    video: Part | None = None
    audio: Part | None = None


#: What a table should say about some classes.
NOTES = {name if "For" in name else f"{name}ForConditionalGeneration": words for name, words in {
    "Blip": "images enter by cross attention",
    "EvollaForProteinText2Text": "proteins instead of images, by cross attention",
    "FastVlm": "with a ResNet in the place of timm's tower",
    "Gemma3n": "with a convolution in the place of timm's tower",
    "GitForCausalLM": "images are put in front of the ids, without tokens for them",
    "Granite4Vision": "image features are added inside the decoder",
    "IdeficsForVisionText2Text": "images enter by cross attention",
    "Kosmos2": "a mask among the inputs says where images are",
    "Kosmos2_5": "a mask among the inputs says where images are",
    "Llama4": "with the attribute that 5.24's own forward misses in its decoder's output",
    "Mistral4ForCausalLM": "a language model",
    "PerceptionLM": "with a CLIP tower in the place of timm's",
}.items()}  # fmt: skip
#: Checks of the kit that a class cannot pass: the image rows that go into Granite4Vision's decoder are zeros.
SKIP = {"Granite4VisionForConditionalGeneration": ("image_rows",)}


def tiny(config: Any, special: dict[str, Any]) -> Any:
    """Return the same configuration, made small, with special options."""
    values = {name: value for name, value in TINY.items() if vars(config).get(name) is not None} | special
    for name, part in vars(config).items():
        own = special.get(name)
        if isinstance(own, dict) and "model_type" in own:
            part = transformers.AutoConfig.for_model(own["model_type"])
        if isinstance(part, transformers.PretrainedConfig):
            values[name] = tiny(part, own or {})
    return type(config)(**values)


class Tower(torch.nn.Module):
    """Stands for a vision tower of timm, which needs torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 8, 8)

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.conv(pixel_values))


@contextmanager
def without_timm() -> Iterator[None]:
    """Give Gemma3n a `Tower`."""
    auto = transformers.AutoModel

    def from_config(config: Any) -> torch.nn.Module:
        return Tower() if "architecture" in vars(config) else auto.from_config(config)

    module = transformers.models.gemma3n.modeling_gemma3n
    with mock.patch.object(module, "AutoModel", SimpleNamespace(from_config=from_config)):
        yield


def build(name: str) -> torch.nn.Module:
    cls = getattr(transformers, name)
    if name.startswith("Llama4"):  # 5.24's forward reads this of its decoder's output, which has none
        transformers.modeling_outputs.MoeCausalLMOutputWithPast.image_outputs = None
    with without_timm() if name.startswith("Gemma3n") else nullcontext():
        return fill_newline(cls(tiny(cls.config_class(), SHEETS[name].config)))


def batch(name: str, images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    sheet = SHEETS[name]
    if isinstance(sheet.image, Part):
        inputs = {**rows(sheet.image.block, images, seed), **sheet.image.make(sum(images), seed)}
    else:
        inputs = sheet.image(images, seed)
    if sheet.video and 0 in images:
        inputs |= with_videos(inputs, images, sheet.video.block) | sheet.video.make(images.count(0), seed + 1)
    if sheet.audio and len(images) > 1:
        inputs |= with_videos(inputs, (0, 0, *[1] * (len(images) - 2)), sheet.audio.block)
        inputs |= sheet.audio.make(2, seed + 2)
    ids = inputs["input_ids"]
    kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int() + 3 * (ids == AUDIO).int()
    return accepted(name, {"mm_token_type_ids": kinds, "token_type_ids": (ids == IMAGE).long(), **inputs})


GRID, FILM = grid(16, 96), film(16, 96)
MEL = Part([AUDIO] * 2, {"input_features": (1, 8, 128), "input_features_mask": [[True] * 8]})
SIZES = {"image_sizes": [[16, 16]]}
SMALL = flat(16, pixel_values=(1, 3, 4, 4), image_sizes=[[4, 4]])
QUESTION = {"qformer_input_ids": [[5, 6, 7]]}
XY = [[[x, y] for y in range(4) for x in range(4)]]
PLACES = flat(4, pixel_values=(1, 16, 48), image_position_ids=XY)
FRAMES = Part(
    [START, *[VIDEO] * 4, END],
    {"pixel_values_videos": (1, 16, 48), "video_position_ids": XY, "num_frames_per_video": [1]},
)
# Parts of configurations
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
TEXT = {"text_config": {"rope_parameters": MROPE}}
LINEAR = {"layer_types": ["linear_attention", "full_attention"], **TEXT["text_config"]}
HYBRID = {"text_config": LINEAR}
UNPADDED = {"text_config": {"unpadded_vocab_size": VOCABULARY}}
CONV = {"layer_types": ["conv", "full_attention"]}
OMNI = {**TEXT, "vision_start_token_id": START, "audio_start_token_id": VIDEO_START, "audio_end_token_id": VIDEO_END}
SAM = {"image_size": 64, "global_attn_indexes": [1], "window_size": 2, "output_channels": 8}
OCR = {"vision_config": {"sam_config": {**SAM, "downsample_channels": [8, 32]}}}
RESNET = {
    "model_type": "resnet", "hidden_size": 32, "embedding_size": 8, "hidden_sizes": [8, 32], "depths": [1, 1],
    "layer_type": "basic",
}  # fmt: skip
VQ = {
    "base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 8, "embed_dim": 8,
    "resolution": 16, "attn_resolutions": [1],
}  # fmt: skip
CODES = range(VOCABULARY, VOCABULARY + 10)
BLIP = {
    "image_token_index": IMAGE, "video_token_index": VIDEO, "num_query_tokens": 4, "image_text_hidden_size": 16,
    "text_config": {"ffn_dim": 32, "word_embed_proj_dim": 32},
}  # fmt: skip
MINICPM = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "insert_layer_id": 0, "downsample_mode": "4x",
    "vision_config": {"insert_layer_id": 0}, **HYBRID,
}  # fmt: skip
GEMMA4 = {
    "text_config": {"global_head_dim": 16, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8},
    "vision_config": {"model_type": "gemma4_vision", "pooling_kernel_size": 2, "position_embedding_size": 16},
}  # fmt: skip

SHEETS: dict[str, Sheet] = {
    name if "For" in name or name.endswith("V3") else f"{name}ForConditionalGeneration": sheet for name, sheet in {
        "Apertus1p5": Sheet({
            "image_token_offset": 68, "audio_token_offset": 84, "text_config": {"vocab_size": 128},
            "vision_config": {**VQ, "codebook_size": 16}, "audio_config": {"codebook_size": 16, "hidden_size": 512},
        }, SMALL, None, Part([AUDIO] * 2, {"input_values": (1, 1, 1200), "padding_mask": [[1] * 1200]})),
        "Aria": Sheet({"projector_patch_to_query_dict": {16: 4}}, flat(4)),
        "AyaVision": Sheet({}, flat(4)),
        "Blip2": Sheet(BLIP, flat(4)),
        "Chameleon": Sheet({
            "vocabulary_map": {"<image>": IMAGE, **{f"IMGIMG{chr(65 + at)}Z": code for at, code in enumerate(CODES)}},
            "vocab_size": 80, "vq_config": {**VQ, "num_embeddings": 10},
        }, SMALL),
        "Cohere2Vision": Sheet({}, flat(4)),
        "CohereCompass": Sheet({"text_config": {
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"sliding_attention": MROPE, "full_attention": MROPE},
        }}, GRID, FILM),
        "Cosmos3Edge": Sheet(TEXT, grid(16, 48)),
        "Cosmos3Omni": Sheet(TEXT, GRID, FILM),
        "DeepseekOcr2": Sheet({**OCR, "text_config": {
            "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "mlp_layer_types": ["dense", "sparse"],
        }}, flat(145, pixel_values=(1, 3, 64, 64))),
        "DeepseekVL": Sheet({}, flat()),
        "DeepseekVLHybrid": Sheet({"high_res_vision_config": SAM}, flat(high_res_pixel_values=(1, 3, 64, 64))),
        "DiffusionGemmaForBlockDiffusion": Sheet({**GEMMA4, "text_config": {
            "global_head_dim": 16, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16,
        }}, PLACES),
        "Dots3Note": Sheet(
            {"vision_config": {"mlp_layer_types": ["dense", "sparse"]}}, grid(16, 48), None,
            Part([AUDIO] * 2, {"input_features": (1, 128, 16), "chunk_sample_lengths": [2560]}),
        ),
        "Emu3": Sheet({
            "vocabulary_map": {"<image>": IMAGE, "<|extra_200|>": NEWLINE, **{
                f"<|visual token {at:06}|>": code for at, code in enumerate(CODES)}},
            "text_config": {"vocab_size": 80}, "vq_config": {**VQ, "codebook_size": 10},
        }, flat(20, pixel_values=(1, 3, 4, 4), image_sizes=[[4, 4]])),
        "Ernie4_5_VLMoe": Sheet({"text_config": {
            "moe_intermediate_size": [16, 16], "moe_k": 2, "rope_parameters": {**MROPE, "mrope_section": [3, 3, 2]},
        }}, grid(16, 48), film(32, 48, video_grid_thw=[[2, 4, 4]])),
        "Exaone4_5_": Sheet({}, GRID, FILM),
        "FastVlm": Sheet({"vision_config": RESNET}, flat(4)),
        "FuyuForCausalLM": Sheet({}, flat(pixel_values=(1, 16, 48))),
        "Gemma3n": Sheet({
            "text_config": {
                "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "laurel_rank": 4,
                "activation_sparsity_pattern": [0.0, 0.0], "intermediate_size": [32, 32],
                "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64,
            },
            "vision_config": {"vocab_size": 4, "vocab_offset": IMAGE}, "vision_soft_tokens_per_image": 4,
            "audio_config": {"vocab_size": 4, "vocab_offset": AUDIO}, "audio_soft_tokens_per_image": 2,
        }, flat(4), None, MEL),
        "Gemma4": Sheet(
            {**GEMMA4, "audio_config": {"model_type": "gemma4_audio", "output_proj_dims": 32}}, PLACES, FRAMES,
            MEL,
        ),
        "Gemma4Unified": Sheet({"text_config": {"global_head_dim": 16}, "vision_config": {
            "model_type": "gemma4_unified_vision", "pooling_kernel_size": 2, "mm_embed_dim": 32, "mm_posemb_size": 16,
            "output_proj_dims": 32,
        }}, flat(pixel_values=(1, 16, 192), image_position_ids=XY)),
        "Glm46V": Sheet(TEXT, GRID),
        "Glm4vMoe": Sheet(TEXT, GRID),
        "Glm5Next": Sheet({"text_config": {
            "qk_rope_head_dim": 0, "layer_types": ["linear_attention", "indexed_attention"]}}, GRID),
        "GlmOcr": Sheet(TEXT, GRID),
        "GotOcr2": Sheet({"vision_config": {**SAM, "image_size": 32}}, flat(4, pixel_values=(1, 3, 32, 32))),
        "Granite4Vision": Sheet({
            "vision_config": {"hidden_size": 64}, "downsample_rate": "1/2", "deepstack_layer_map": [[-1, 0]],
            "spatial_target_layers": [1, 1, 1, 1], "image_grid_pinpoints": [[16, 16]],
        }, flat(10, pixel_values=(1, 2, 3, 16, 16), **SIZES)),
        "GraniteDocling": Sheet({"vision_config": {"scale_factor": 2}}, by_row),
        "HYV4VL": Sheet(
            {"text_config": {"rope_parameters": {**MROPE, "mrope_section": [1, 1, 2]}}}, grid(16, 48, count=6)),
        "HunYuanVL": Sheet({"text_config": {"head_dim": 16, "rope_parameters": MROPE}}, grid(16, 48, count=8)),
        "HyperCLOVAXVisionV2": Sheet({}, GRID, FILM),
        "Idefics2": Sheet({"perceiver_config": {
            "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 16,
        }}, idefics3_batch),
        "Inkling": Sheet(
            {"vision_config": {"n_layers": 4}}, flat(4, pixel_values=(4, 2, 4, 4, 3)), None,
            Part([AUDIO] * 4, {"audio_input_ids": [[[1] * 80] * 4]}),
        ),
        "Inkling2": Sheet(UNPADDED, grid(4, 8, 8, 3, image_grid_thw=[[1, 2, 2]])),
        "Inkling2Loop": Sheet(UNPADDED, grid(4, 8, 8, 3, image_grid_thw=[[1, 2, 2]])),
        "InstructBlip": Sheet(BLIP, flat(4, **QUESTION)),
        "InstructBlipVideo": Sheet(BLIP, Part([VIDEO] * 8, {"pixel_values": (1, 2, 3, 16, 16), **QUESTION})),
        "Janus": Sheet({"vq_config": {**VQ, "num_embeddings": 16, "image_token_embed_dim": 32}}, flat()),
        "Kimi_K25": Sheet({"text_config": {"head_dim": 8}}, grid(16, 3, 4, 4), film(16, 3, 4, 4)),
        "Lfm2Vl": Sheet({"text_config": CONV}, flat(
            4, pixel_values=(1, 16, 48), spatial_shapes=[[4, 4]], pixel_attention_mask=[[1] * 16])),
        "Lfm3Vl": Sheet({"text_config": CONV, "vision_config": CONV}, GRID, FILM),
        "LightOnOcr": Sheet({}, flat(4, **SIZES)),
        "Llama4": Sheet(
            {"vision_config": {"intermediate_size": 128, "vision_feature_select_strategy": "full"}}, flat(4)),
        "MiniCPMOcr": Sheet(MINICPM, side_by_side),
        "MiniCPMV4_6": Sheet(MINICPM, side_by_side),
        "MiniCPMV4_7": Sheet(MINICPM, side_by_side),
        "MiniMaxM3Sparse": Sheet({}, GRID, FILM),
        "MistralLarge4": Sheet({}, flat(4, **SIZES)),
        "Molmo2": Sheet({
            "image_patch_id": IMAGE, "vision_config": {"image_size": [16, 16]},
            "adapter_config": {"vision_feature_layer": [-1, -2], "initializer_range": 0.5},
            "text_config": {"vocab_size": 60, "additional_vocab_size": 8},
        }, flat(4, pixel_values=(1, 16, 48), image_grids=[[2, 2, 0, 0]], image_num_crops=[1], image_token_pooling=[
            [0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])),
        "MuseGlimmer": Sheet({"out_hidden_size": 128}, GRID, FILM),
        "MuseSpark": Sheet(
            {"out_hidden_size": 128, "audio_config": {"num_hidden_layers": 4, "hidden_sizes": [8] * 4}}, GRID, FILM,
            Part([AUDIO] * 2, {"input_values": (1, 3840)}),
        ),
        "NemotronH_Omni_Reasoning_V3": Sheet({
            "image_token_id": IMAGE, "vision_config": {"video_temporal_patch_size": 2}, "text_config": {
                "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"], "ssm_state_size": 8,
                "mamba_num_heads": 2, "mamba_head_dim": 16, "n_groups": 1, "expand": 1,
            },
        }, grid(16, 48, image_grid_hw=[[4, 4]])),
        "PI0": Sheet({}, partial(by_row, count=16)),
        "PaddleOCRVL": Sheet(TEXT, grid(16, 3, 4, 4)),
        "PerceptionLM": Sheet({"vision_config": {"model_type": "clip_vision_model", "model_args": {"embed_dim": 32}}},
            flat(pixel_values=(1, 1, 3, 16, 16))),
        "QianfanOCR": Sheet({}, flat(4)),
        "Qwen2_5OmniThinker": Sheet(OMNI, GRID, FILM, sound(8)),
        "Qwen3OmniMoeThinker": Sheet(OMNI, GRID, FILM, sound(16)),
        "Qwen3VLMoe": Sheet(TEXT, GRID, FILM),
        "Qwen3_5": Sheet(HYBRID, GRID, FILM),
        "Qwen3_5Moe": Sheet(HYBRID, GRID, FILM),
        "Qwen4Exp": Sheet({"text_config": {
            **LINEAR, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64,
            "indexer_compress_ratio": 4,
        }}, GRID, FILM),
        "Step3p7": Sheet({"text_config": {"sliding_window": 64}}, flat(1)),
        "UnlimitedOcr": Sheet(OCR, flat(21, pixel_values=(1, 3, 64, 64))),
        "VideoLlama3": Sheet({}, grid(16, 48, image_merge_sizes=[2]), film(
            16, 48, video_merge_sizes=[2], video_compression_mask=[True] * 4)),
        "VideoLlava": Sheet({}, flat(), Part([VIDEO] * 34, {"pixel_values_videos": (1, 2, 3, 16, 16)})),
    }.items()
}  # fmt: skip
MORE = {name: Family(partial(build, name), partial(batch, name)) for name in SHEETS if hasattr(transformers, name)}
