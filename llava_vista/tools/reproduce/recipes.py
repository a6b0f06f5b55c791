"""The published recipes (``recipes.json``): an upstream's launch scripts, what is appended, and the published numbers.

Of an upstream's script nothing is repeated but the names of its flags. The published numbers are what the paper and its
baselines state; the script is compared with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..kit.json_files import package_data

PRETRAIN, FINETUNE, LORA = "pretrain", "finetune", "finetune_lora"


class TrainingSet(NamedTuple):
    """A training set as LLaVA arranges it, below the data root. ``samples`` is the count of the published file."""

    annotations: str
    images: str
    samples: int | None
    source: str


@dataclass(frozen=True)
class Stage:
    """One training."""

    name: str
    data: TrainingSet
    batch: int  # the published global batch size: per device x GPUs x accumulation
    published: Mapping[str, float]  # hyper-parameters, by flag
    values: Mapping[str, str]  # flags appended to the script's command; `planned_trainings` fills in their ``{...}``
    script: str  # relative to the upstream's root
    folder: str  # of the result, below the arm's. TinyLLaVA saves a whole model only in "...finetune..."
    #: The script's arguments. TinyLLaVA's scripts do not quote them, so that a blank would split a path: they have no
    #: meaning, and the paths are in ``values``.
    words: Sequence[str] = ()
    result: str = "config.json"  # the file that a finished training writes last; config.json stands for a whole model
    zero: int | None = None  # the published ZeRO stage; None where the script decides
    disk: float = 0.0  # GB that the result takes
    memory: int = 0  # GB of each published GPU
    gpu_hours: float | None = None  # A100 hours, if the upstream's README states them


@dataclass(frozen=True)
class Recipe:
    """A model of the paper."""

    title: str
    root_variable: str  # the environment variable that names the upstream's checkout
    package: str  # what the checkout's code is imported as
    base: str
    tower: str
    #: lmms-eval's model and its arguments. LLaVA's loader decides by the folder's name: "llava", no "lora".
    harness: Sequence[str]
    stages: Mapping[str, Stage]
    #: Stage 1's result, which the upstream's own flag also loads untrained, so that all runs can start from the same;
    #: None where there is no such flag.
    projector: str | None = None
    merge_script: str | None = None  # the upstream's, for a LoRA adapter; None where its loader merges
    cpu: bool = False  # runs without GPU and DeepSpeed (the smoke test)


def _read(content: dict[str, Any]) -> dict[str, Recipe]:
    recipes = {}
    for model, entry in content["models"].items():
        stages = {}
        for name, own in entry["stages"].items():
            common = content["stages"][name]
            merged = {**common, **own}
            merged["data"] = TrainingSet(*content["training_sets"][merged["data"]])
            for key in ("published", "values"):  # from the most general to the most special
                parts = (content, common, entry, own)
                merged[key] = {flag: value for part in parts for flag, value in part.get(key, {}).items()}
            stages[name] = Stage(name, **merged)
        recipes[model] = Recipe(stages=stages, **{key: entry[key] for key in entry if key not in ("stages", "values")})
    return recipes


RECIPES = _read(package_data(__package__, "recipes.json"))
