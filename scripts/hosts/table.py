"""The hosts that `run.sh` can train: what each is made of, how it is launched, and what it needs on a CPU.

Standard library only: `run.sh` asks it what to install before there is an environment.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TORCH = "torch==2.13.0"
COMMON_PACKAGES = (
    TORCH, "peft==0.10.0", "sentencepiece", "einops==0.6.1", "numpy<2", "pillow", "requests", "protobuf", "ninja",
    "py-cpuinfo", "hjson", "msgpack", "pydantic", "matplotlib",
)  # fmt: skip
#: What every LLaVA-family entry script takes, at the size of these runs. {names} are filled in by train.py.
COMMON_FLAGS = (
    "--model_name_or_path {llm} --data_path {data} --image_folder {images} "
    "--output_dir {output} --num_train_epochs 1 --max_steps 6 --per_device_train_batch_size 4 "
    "--gradient_accumulation_steps 1 --evaluation_strategy no --save_strategy no --learning_rate 1e-3 "
    "--weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 --model_max_length 2048 "
    "--gradient_checkpointing True --dataloader_num_workers 0 --lazy_preprocess True --report_to none {on_cpu} "
    "--group_by_modality_length True"
)
LLAVA_FLAGS = (
    "--vision_tower {tower} --version v1 --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 "
    "--mm_use_im_start_end False --mm_use_im_patch_token False --image_aspect_ratio pad"
)
NEXT_FLAGS = (
    "--vision_tower {tower} --version qwen_1_5 --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 "
    "--mm_use_im_start_end False --mm_use_im_patch_token False --attn_implementation sdpa "
    "--mm_tunable_parts mm_mlp_adapter,mm_language_model"
)
MOE_FLAGS = (
    "--image_tower {relative_tower} --version phi --image_projector_type mlp2x_gelu --mm_vision_select_layer -2 "
    "--mm_use_im_start_end False --mm_use_im_patch_token False --image_aspect_ratio pad"
)
BUNNY_FLAGS = (
    "--vision_tower {tower} --model_type phi-2 --version bunny --mm_projector_type mlp2x_gelu --image_aspect_ratio pad"
)
TINYLLAVA_FLAGS = (
    "--vision_tower {tower} --is_multimodal True --connector_type mlp2x_gelu --mm_vision_select_layer -2 "
    "--image_aspect_ratio square --training_recipe common --tune_type_llm full --tune_type_vision_tower frozen "
    "--tune_vision_tower_from_layer 0 --tune_type_connector full --tokenizer_use_fast False --ddp_backend gloo"
)

NO_EVALUATION = "its loss in evaluation mode fails, without VISTA too"


@dataclass(frozen=True)
class Host:
    """One repository.

    Args:
        transformers: the version that the host asks for, or the nearest that llava-vista supports.
        entry: its own entry script, below the checkout.
        process_group: it needs one; it gets one of a single rank.
        flags: for the entry script, after COMMON_FLAGS.
        llm, tower: kinds that parts.py can make.
        packages: also installed.
        environment: variables for its process.
        placeholders: packages that are imported but not installed; a stand-in that fails on use takes their place.
        fixes: by name, see scratch_site.py: what is worked around outside of the host, and said in the output.
        config: keys that are added to a copy of the language model's config.json, ``{config}`` in the flags.
        classes: qualified names of model classes for the conformance kit, beside those that adapters name.
        trained: flags that make its script begin with what a training saved, for the probe.
        no_probe: why it cannot be probed, if it cannot.
        variants: other flags (and kinds) to run the same host with.
    """

    package: str
    transformers: str
    entry: str
    flags: str
    llm: str = "llama"
    tower: str = "clip"
    accelerate: str = "0.34.2"
    process_group: bool = False
    packages: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    placeholders: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    trained: str = "--model_name_or_path {trained}"
    no_probe: str = ""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


HOSTS: dict[str, Host] = {
    "TinyLLaVA_Factory": Host(
        package="tinyllava",
        transformers="4.40.2",
        entry="tinyllava/train/train.py",
        process_group=True,
        packages=("einops-exts",),
        llm="phi",
        tower="siglip",
        flags=f"{TINYLLAVA_FLAGS} --conv_version phi",
        fixes=("dataclass-defaults",),
        trained="--pretrained_model_path {trained}",
        variants={
            "llama": {"llm": "tinyllama", "flags": f"{TINYLLAVA_FLAGS} --conv_version llama"},
            # the tiny tokenizer is Llama's kind, whose end token is not the Gemma template's
            "gemma": {"llm": "gemma", "flags": f"{TINYLLAVA_FLAGS} --conv_version llama"},
            "stablelm": {"llm": "stablelm", "flags": f"{TINYLLAVA_FLAGS} --conv_version phi"},
            "qwen2": {"llm": "qwen2", "flags": f"{TINYLLAVA_FLAGS} --conv_version qwen2_base"},
        },
    ),
    "LLaVA-NeXT": Host(
        package="llava",
        transformers="4.40.2",
        entry="llava/train/train_mem.py",
        llm="qwen",
        flags=f"{NEXT_FLAGS} --image_aspect_ratio pad",
        placeholders=("av", "datasets", "decord", "open_clip", "timm", "torchvision"),
        packages=("tyro",),
        fixes=("no-cuda-synchronize",),
        variants={
            "llama": {
                "llm": "vicuna",
                "flags": f"{NEXT_FLAGS.replace('qwen_1_5', 'v1')} --image_aspect_ratio pad",
            },
            "anyres_max": {
                "flags": f"{NEXT_FLAGS} --image_aspect_ratio anyres_max_4 --mm_patch_merge_type spatial_unpad "
                "--image_grid_pinpoints [(56,112),(112,56),(112,112)]"
            },
        },
    ),
    "Bunny": Host(
        package="bunny",
        transformers="4.40.2",
        entry="bunny/train/train.py",
        llm="phi",
        tower="siglip",
        flags=BUNNY_FLAGS,
        placeholders=("timm", "torchvision", "xformers"),
        variants={
            "lora": {"flags": f"{BUNNY_FLAGS} --lora_enable True", "no_probe": "its script makes a fresh LoRA adapter"}
        },
    ),
    "MoE-LLaVA": Host(
        package="moellava",
        transformers="4.37.2",
        entry="moellava/train/train.py",
        llm="phi",
        tower="openai/clip",
        flags=MOE_FLAGS,
        placeholders=("tiktoken", "timm"),
        variants={
            "moe": {
                "flags": f"{MOE_FLAGS} --moe_enable True --num_experts 4 --top_k_experts 2 --capacity_factor 1.5 "
                "--moe_mode sparse --use_residual False --router_aux_loss_coef 0.01 --train_modules fc1 fc2 wg "
                "--deepspeed {repo}/tests/support/deepspeed/zero2.json --use_cpu False",
                "process_group": True,
                "fixes": ("no-cuda-synchronize",),
            },
        },
    ),
    "ShareGPT4V": Host(
        package="share4v",
        transformers="4.31.0",
        accelerate="0.21.0",
        entry="share4v/train/train.py",
        flags=LLAVA_FLAGS,
    ),
    "Video-LLaVA": Host(
        package="videollava",
        transformers="4.31.0",
        accelerate="0.21.0",
        entry="videollava/train/train.py",
        tower="clip224",
        flags=LLAVA_FLAGS.replace("--vision_tower", "--image_tower"),
        placeholders=("cv2", "decord", "pytorchvideo", "torchaudio", "torchvision"),
    ),
    "CAL": Host(
        package="llava",
        transformers="4.37.2",
        entry="llava/train/train.py",
        process_group=True,
        flags=LLAVA_FLAGS,
        placeholders=("timm",),
        fixes=("silent-wandb", "no-cuda-synchronize"),
        no_probe=NO_EVALUATION,
    ),
    "VIRAL": Host(
        package="llava",
        transformers="4.37.2",
        entry="llava/train/train.py",
        llm="vicuna",
        flags=LLAVA_FLAGS,
        placeholders=("cv2", "segment_anything", "sklearn", "timm", "torchvision", "xformers"),
        fixes=("silent-wandb",),
        no_probe=NO_EVALUATION,
        variants={
            # beside its own loss, which needs 24 by 24 image tokens
            "vra": {
                "tower": "clip336",
                "flags": f"{LLAVA_FLAGS} --config_path {{config}}",
                "config": {
                    "vra_loss": True,
                    "vra_target": "clip",
                    "target_layers": [1],
                    "projector_dim": 32,
                    "z_dim": 32,
                },
            },
        },
    ),
    "VILA": Host(
        package="llava",
        transformers="4.46.0",
        entry="llava/train/train_mem.py",
        process_group=True,
        llm="qwen",
        tower="siglip",
        flags=(
            "--vision_tower {tower} --data_mixture tiny --chat_template qwen2 --mm_projector mlp2x_gelu "
            "--mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False "
            "--image_aspect_ratio resize --tune_language_model True --tune_mm_projector True "
            "--tune_vision_tower False --model_dtype torch.bfloat16 --bf16 True "
            # its save path without DeepSpeed is broken upstream
            "--deepspeed {repo}/tests/support/deepspeed/zero2.json --use_cpu False"
        ),
        environment={"VILA_DATASETS": "{datasets}"},
        no_probe=NO_EVALUATION,  # it encodes the batch's empty list of videos
        packages=("hydra-core", "loguru", "termcolor", "tyro"),
        placeholders=(
            "IPython",
            "cv2",
            "datasets",
            "decord",
            "flash_attn",
            "ps3",
            "pytorchvideo",
            "s2wrapper",
            "timm",
            "torchvision",
            "triton",
            "xgrammar",
        ),
        fixes=("sdpa-for-flash-attention", "no-cuda-synchronize"),
    ),
    "Open-LLaVA-NeXT": Host(
        package="llava",
        transformers="4.37.2",
        entry="llava/train/train.py",
        flags=LLAVA_FLAGS,
        variants={
            "anyres": {
                "flags": f"{LLAVA_FLAGS.replace('aspect_ratio pad', 'aspect_ratio anyres')} "
                "--mm_patch_merge_type spatial_unpad",
            }
        },
    ),
    "ViP-LLaVA": Host(
        package="llava",
        transformers="4.37.2",
        entry="llava/train/train.py",
        flags=LLAVA_FLAGS,
        placeholders=("scipy", "shapely"),
    ),
    "ml-fastvlm": Host(
        package="llava",
        transformers="4.48.3",
        accelerate="1.6.0",
        entry="llava/train/train_qwen.py",
        llm="qwen",
        flags=LLAVA_FLAGS.replace("--version v1", "--version qwen_2"),
        placeholders=("timm", "torchvision"),
    ),
    "MobileVLM": Host(
        package="mobilevlm",
        transformers="4.31.0",
        accelerate="0.21.0",
        entry="mobilevlm/train/train.py",
        flags=f"{LLAVA_FLAGS} --vision_tower_type clip",
        placeholders=("timm", "torchvision"),
        classes=("mobilevlm.model.mobilellama.MobileLlamaForCausalLM",),
    ),
    "LLaVA": Host(
        package="llava",
        transformers="4.37.2",
        entry="llava/train/train.py",
        flags=LLAVA_FLAGS,
    ),
}


def requirements(host: Host) -> list[str]:
    return [
        host.transformers,
        f"transformers=={host.transformers}",
        f"accelerate=={host.accelerate}",
        *COMMON_PACKAGES,
        *host.packages,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requirements", metavar="NAME", choices=HOSTS)
    parser.add_argument("--runs", action="store_true", help="print every host, and every variant behind its name")
    arguments = parser.parse_args()
    if arguments.requirements is not None:
        print(*requirements(HOSTS[arguments.requirements]), sep="\n")
        return
    if arguments.runs:
        print(*(f"{name} {variant}" for name, host in HOSTS.items() for variant in ("", *host.variants)), sep="\n")
        return
    for name, host in HOSTS.items():
        others = f"; variants {', '.join(host.variants)}" if host.variants else ""
        print(f"{name}: transformers {host.transformers}, {host.entry}{others}")


if __name__ == "__main__":
    main()
