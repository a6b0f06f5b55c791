"""The published recipes (``recipes.json``): an upstream's launch scripts, what is appended, and the published numbers.

Of an upstream's script nothing is repeated but the names of its flags. The published numbers are what the paper and its
baselines state, and GPU hours what the upstream's README states for A100; the script is compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

PRETRAIN, FINETUNE, LORA = "pretrain", "finetune", "finetune_lora"


class TrainingSet(NamedTuple):
    """A training set as LLaVA arranges it, below the data root. ``samples`` is the count of the published file."""

    annotations: str
    images: str
    samples: int | None
    source: str


@dataclass(frozen=True)
class Stage:
    """One training. In ``values``, ``{...}`` are filled in by `training_runs`.

    Attributes:
        data, batch: The training set, and the published global batch size (per device x GPUs x accumulation).
        published: The published hyper-parameters, by flag.
        values: The flags that are appended to the script's command, with their values.
        script, folder: The launch script, relative to the upstream's root, and the result's folder below the arm's.
            TinyLLaVA saves a fine-tuned model only in a folder called "...finetune...".
        words: The script's arguments. TinyLLaVA's scripts do not quote them, so a blank would split a path: they are
            words without meaning, and the paths are in ``values``.
        result: The file that a finished training writes last; "config.json" stands for a whole model.
        zero: The published ZeRO stage; None where the script decides.
        disk, memory: GB of the result, and GB of each published GPU (less is a note, not a problem).
        gpu_hours: None where the upstream states none.
    """

    name: str
    data: TrainingSet
    batch: int
    published: Mapping[str, float]
    values: Mapping[str, str]
    script: str
    folder: str
    words: tuple[str, ...] = ()
    result: str = "config.json"
    zero: int | None = None
    disk: float = 0.0
    memory: int = 0
    gpu_hours: float | None = None


@dataclass(frozen=True)
class Recipe:
    """A model of the paper.

    Attributes:
        root_variable: The environment variable that names the upstream's checkout.
        package: What the checkout's code is imported as.
        harness: lmms-eval's model and its arguments. LLaVA's loader decides by the folder's name: "llava", no "lora".
        projector: Stage 1's result, which the upstream's own flag also loads untrained, so that all runs can start
            from the same; None where there is no such flag.
        merge_script: The upstream's script that merges a LoRA adapter; None where its loader does so.
        cpu: Runs without GPU and DeepSpeed (the smoke test).
    """

    title: str
    root_variable: str
    package: str
    base: str
    tower: str
    harness: tuple[str, str]
    stages: Mapping[str, Stage]
    projector: str | None = None
    merge_script: str | None = None
    cpu: bool = False


_SCHEDULE = {"num_train_epochs": 1, "model_max_length": 2048, "warmup_ratio": 0.03, "weight_decay": 0}
_DATA_558K = TrainingSet(
    "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
    "LLaVA-Pretrain/images",
    558_128,
    "huggingface.co/datasets/liuhaotian/LLaVA-Pretrain",
)
_DATA_665K = TrainingSet(
    "llava_v1_5_mix665k.json",
    ".",
    665_298,
    "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K, images as LLaVA's README lists them",
)
#: Common to LLaVA and TinyLLaVA: training set, global batch size, hyper-parameters.
_STAGES = {
    PRETRAIN: (_DATA_558K, 256, {"learning_rate": 1e-3, **_SCHEDULE}),
    FINETUNE: (_DATA_665K, 128, {"learning_rate": 2e-5, **_SCHEDULE}),
    LORA: (_DATA_665K, 128, {"learning_rate": 2e-4, "lora_r": 128, "lora_alpha": 256, **_SCHEDULE}),
}
_VALUES = {
    "--model_name_or_path": "{base}",
    "--vision_tower": "{tower}",
    "--data_path": "{annotations}",
    "--image_folder": "{images}",
    "--output_dir": "{output}",
    "--seed": "{seed}",
    "--per_device_train_batch_size": "{per_device}",
    "--gradient_accumulation_steps": "{accumulation}",
    # trainer_state.json has the whole log; the scripts' own value may need an account
    "--report_to": "none",
}


def _stage(name: str, entry: dict[str, Any], values: Mapping[str, str]) -> Stage:
    data, batch, published = _STAGES[name]
    common = {
        "data": TrainingSet(*entry.pop("data", data)),
        "batch": batch,
        "published": {**published, **entry.pop("published", {})},
        "values": {**_VALUES, **values, **entry.pop("values", {})},
        "words": tuple(entry.pop("words", ())),
    }
    return Stage(name, **{**common, **entry})


def _recipe(entry: dict[str, Any]) -> Recipe:
    values = entry.pop("values", {})
    stages = {name: _stage(name, stage, values) for name, stage in entry.pop("stages").items()}
    return Recipe(stages=stages, harness=tuple(entry.pop("harness")), **entry)


RECIPES = {
    name: _recipe(entry)
    for name, entry in json.loads(resources.files(__package__).joinpath("recipes.json").read_text("utf-8")).items()
}
