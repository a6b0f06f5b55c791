"""The published recipes: which of the upstream's own launch scripts, with what, and the numbers they must come to.

Nothing of an upstream's script is repeated here but the names of its flags. `Stage.published` is what the paper and its
baselines state (batch sizes are global: per device x GPUs x accumulation); the upstream's script is checked against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

PRETRAIN, FINETUNE, LORA = "pretrain", "finetune", "finetune_lora"
SCHEDULE = {"num_train_epochs": 1, "model_max_length": 2048, "warmup_ratio": 0.03, "weight_decay": 0}


@dataclass(frozen=True)
class Data:
    """A training set as LLaVA lays it out, below the data root."""

    annotations: str
    images: str
    samples: int | None
    source: str


#: Counts are those of the files that LLaVA published.
DATA_558K = Data(
    "LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
    "LLaVA-Pretrain/images",
    558_128,
    "huggingface.co/datasets/liuhaotian/LLaVA-Pretrain",
)
DATA_665K = Data(
    "llava_v1_5_mix665k.json",
    ".",
    665_298,
    "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K, images as LLaVA's README lists them",
)


@dataclass(frozen=True)
class Stage:
    """One training run.

    Attributes:
        script: the upstream's launch script, relative to its root.
        words: what the script is given; ``{...}`` are filled in.
        values: flags that are set (``{...}`` filled in); the script's other flags stay.
        folder: where the result goes, below the arm's folder.
        result: the file that a finished run writes last; "config.json" stands for a whole model.
        batch: the published global batch size.
        published: the published hyper-parameters.
        zero: the published ZeRO stage; None where the script's own decides.
        disk: GB that the result needs.
        memory: GB of each GPU as published; less is said, not refused.
    """

    name: str
    script: str
    folder: str
    result: str
    data: Data
    batch: int
    published: Mapping[str, float]
    zero: int | None
    disk: float
    memory: int
    words: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    lora: bool = False


@dataclass(frozen=True)
class Recipe:
    """A model of the paper.

    Attributes:
        root_variable: environment variable that names the upstream's checkout.
        package: what the checkout's code is imported as.
        upstream: name in `llava_vista.tools.patch`.
        projector: flag that takes stage 1's projector, also an untrained one, so that all runs start from the same;
            None where the upstream has no such flag.
        harness: lmms-eval's model and its arguments.
        cpu: runs without a GPU and without DeepSpeed (the kit's own test).
    """

    name: str
    title: str
    root_variable: str
    package: str
    upstream: str
    base: str
    tower: str
    stages: tuple[Stage, ...]
    harness: tuple[str, str]
    projector: str | None = None
    merge_script: str | None = None
    cpu: bool = False

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


_COMMON = {
    "--output_dir": "{output}",
    "--data_path": "{annotations}",
    "--image_folder": "{images}",
    "--seed": "{seed}",
    "--per_device_train_batch_size": "{per_device}",
    "--gradient_accumulation_steps": "{accumulation}",
    # trainer_state.json has the whole log; nobody's account is needed
    "--report_to": "none",
}


def _llava(size: str, finetuned_gb: float) -> Recipe:
    base = {**_COMMON, "--model_name_or_path": "{base}", "--vision_tower": "{tower}"}
    base["--pretrain_mm_mlp_adapter"] = "{projector}"
    name = f"llava-v1.5-{size}"
    return Recipe(
        name=f"llava-{size}",
        title=f"LLaVA-1.5-{size.upper()}",
        root_variable="LLAVA_ROOT",
        package="llava",
        upstream="llava",
        base=f"lmsys/vicuna-{size}-v1.5",
        tower="openai/clip-vit-large-patch14-336",
        projector="mm_projector.bin",
        merge_script="scripts/merge_lora_weights.py",
        # the harness decides by the folder's name how to load it: "llava" in it, no "lora"
        harness=("llava", "pretrained={model},conv_template=vicuna_v1"),
        stages=(
            Stage(
                name=PRETRAIN,
                script="scripts/v1_5/pretrain.sh",
                folder=f"{name}-pretrain",
                result="mm_projector.bin",
                data=DATA_558K,
                batch=256,
                published={"learning_rate": 1e-3, **SCHEDULE},
                zero=2,
                disk=0.1,
                memory=80,
                values=base,
            ),
            Stage(
                name=FINETUNE,
                script="scripts/v1_5/finetune.sh",
                folder=name,
                result="config.json",
                data=DATA_665K,
                batch=128,
                published={"learning_rate": 2e-5, **SCHEDULE},
                zero=3,
                disk=finetuned_gb,
                memory=40 if size == "7b" else 80,
                values=base,
            ),
            Stage(
                name=LORA,
                script="scripts/v1_5/finetune_lora.sh",
                folder=f"{name}-lora",
                result="non_lora_trainables.bin",
                data=DATA_665K,
                batch=128,
                published={
                    "learning_rate": 2e-4,
                    "mm_projector_lr": 2e-5,
                    "lora_r": 128,
                    "lora_alpha": 256,
                    **SCHEDULE,
                },
                zero=3,
                disk=1 + finetuned_gb,  # and the merged model
                memory=24 if size == "7b" else 40,
                values=base,
                lora=True,
            ),
        ),
    )


def _tinyllava() -> Recipe:
    words = ("{annotations}", "{images}", "{base}", "{tower}", "", "mlp2x_gelu")
    # the trainer of TinyLLaVA Factory saves a fine-tuned model only if its folder is called "...finetune..."
    name = "tiny-llava-phi-2-siglip-so400m-patch14-384-base"
    first = Stage(
        name=PRETRAIN,
        script="scripts/train/pretrain.sh",
        folder=f"{name}-pretrain",
        result="connector/pytorch_model.bin",
        data=DATA_558K,
        batch=256,
        published={"learning_rate": 1e-3, **SCHEDULE},
        zero=None,
        disk=7.5,
        memory=40,
        words=(*words, "base", "common", "2048"),
        values=_COMMON,
    )
    second = replace(
        first,
        name=FINETUNE,
        script="scripts/train/finetune.sh",
        folder=f"{name}-finetune",
        result="config.json",
        data=DATA_665K,
        batch=128,
        published={"learning_rate": 2e-5, **SCHEDULE},
        memory=80,
        words=(*words, "phi", "base", "common", "2048"),
        values={**_COMMON, "--pretrained_model_path": "{pretrained}"},
    )
    lora = replace(
        second,
        name=LORA,
        script="scripts/train/lora/finetune_lora.sh",
        folder=f"{name}-finetune-lora",
        result="adapter_config.json",
        published={"learning_rate": 2e-4, "lora_r": 128, "lora_alpha": 256, **SCHEDULE},
        memory=40,
        words=(*words, "phi", "base", "lora", "2048"),
        lora=True,
    )
    return Recipe(
        name="tinyllava-3b",
        title="TinyLLaVA-3B (SigLIP, Phi-2)",
        root_variable="TINYLLAVA_ROOT",
        package="tinyllava",
        upstream="tinyllava",
        base="microsoft/phi-2",
        tower="google/siglip-so400m-patch14-384",
        # its own loader merges a LoRA adapter when it loads one
        harness=("tinyllava", "pretrained={model},conv_mode=phi"),
        stages=(first, second, lora),
    )


def _smoke() -> Recipe:
    """LLaVA-1.5's recipe at the demo's size: what tests the kit itself. See scripts/smoke/."""
    recipe = _llava("7b", 0.1)
    sizes = {PRETRAIN: (4, 1e-3), FINETUNE: (4, 1e-3)}
    stages = tuple(
        replace(
            recipe.stage(name),
            batch=batch,
            published={**recipe.stage(name).published, "learning_rate": rate},
            data=replace(
                recipe.stage(name).data, annotations=f"{name}.json", images="images", samples=None, source="the demo"
            ),
            folder=f"llava-tiny-{name}",
            zero=None,
            disk=0.1,
            memory=0,
        )
        for name, (batch, rate) in sizes.items()
    )
    return replace(
        recipe, name="smoke", title="tiny LLaVA", base="language_model", tower="vision_tower", stages=stages, cpu=True
    )


RECIPES = {recipe.name: recipe for recipe in (_llava("7b", 14), _llava("13b", 27), _tinyllava(), _smoke())}
