"""The trainings of a reproduction: which there are, where their files are, what is appended to each one's command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import ReproduceError
from .launch_script import LaunchScript, find_program, read_flags
from .recipes import LORA, PRETRAIN, Recipe, Stage
from .training_inputs import is_model

BASELINE = "baseline"


@dataclass(frozen=True)
class ReproduceSettings:
    """The user's choices. ``flags`` are VISTA's, for every arm but the baseline."""

    recipe: Recipe
    root: Path | None
    output: Path
    data_root: Path
    base: str
    tower: str
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    stages: tuple[str, ...]
    gpus: int
    per_device: int | None
    flags: dict[str, str]

    def stage_folder(self, seed: int, arm: str, name: str) -> Path:
        return self.output / f"seed{seed}" / arm / self.recipe.stages[name].folder

    def shared_projector(self, seed: int) -> Path:
        """Return the untrained projector that both arms of a seed start from: LLaVA makes its own before it seeds."""
        return self.output / f"seed{seed}" / "untrained_projector.bin"

    def evaluated_model(self, seed: int, arm: str) -> Path:
        """Return the folder of the model to evaluate: fine-tuned, and merged where LoRA was used.

        Raises:
            ReproduceError: no stage trains a whole model.
        """
        whole = [name for name in self.stages if name != PRETRAIN]
        if not whole:
            raise ReproduceError(f"--stages {PRETRAIN} trains no model to evaluate. Add finetune or {LORA}.")
        folder = self.stage_folder(seed, arm, whole[-1])
        return merged_folder(folder) if whole[-1] == LORA and self.recipe.merge_script else folder

    def launch_script(self, stage: Stage) -> LaunchScript:
        """Return a stage's script in the checkout, which the checklist has found."""
        return LaunchScript(self.root or Path(), stage.script, stage.words)


def merged_folder(lora: Path) -> Path:
    """Return where a LoRA adapter is merged: not "...lora", where LLaVA's loader expects an adapter."""
    return lora.with_name(lora.name.replace("-lora", "-merged"))


@dataclass(frozen=True)
class PlannedTraining:
    """One stage of one arm with one seed."""

    settings: ReproduceSettings
    stage: Stage
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.arm}, {self.stage.name}"

    @property
    def folder(self) -> Path:
        return self.settings.stage_folder(self.seed, self.arm, self.stage.name)

    @property
    def pretrained(self) -> Path:
        return self.settings.stage_folder(self.seed, self.arm, PRETRAIN)

    @property
    def is_done(self) -> bool:
        """Whether an earlier command finished it: its result and its log are there."""
        is_whole = self.stage.result == "config.json"
        is_there = is_model(self.folder) if is_whole else (self.folder / self.stage.result).is_file()
        return is_there and (self.folder / "trainer_state.json").is_file()

    def appended(self, recorded: list[str]) -> dict[str, str]:
        """Return the flags that are appended to the recorded command, with their values.

        Raises:
            ValueError: the published global batch size cannot be reached.
        """
        settings, data = self.settings, self.stage.data
        per_device, accumulation = global_batch(settings, self.stage, recorded)
        projector = self.pretrained / (settings.recipe.projector or "")
        places = {
            "annotations": settings.data_root / data.annotations,
            "images": settings.data_root / data.images,
            "per_device": per_device,
            "accumulation": accumulation,
            "projector": settings.shared_projector(self.seed) if self.stage.name == PRETRAIN else projector,
        }
        values = {flag: text.format(run=self, **places) for flag, text in self.stage.values.items()}
        return values if self.arm == BASELINE else {**values, **settings.flags}


def planned_trainings(settings: ReproduceSettings) -> list[PlannedTraining]:
    """Return the trainings in their order: a seed's arms one after the other, stage by stage."""
    return [
        PlannedTraining(settings, settings.recipe.stages[name], arm, seed)
        for seed in settings.seeds
        for arm in settings.arms
        for name in settings.stages
    ]


def launcher(settings: ReproduceSettings) -> list[str]:
    """Return the command that starts a training script on this machine."""
    if settings.recipe.cpu:
        return [find_program("python") or "python"]
    return [find_program("deepspeed") or "deepspeed", "--num_gpus", str(settings.gpus)]


def global_batch(settings: ReproduceSettings, stage: Stage, recorded: list[str]) -> tuple[int, int]:
    """Return the per-device batch size and accumulation steps that give the published global batch size.

    Raises:
        ValueError: these GPUs cannot reach it exactly.
    """
    upstream = int(read_flags(recorded)["per_device_train_batch_size"])
    per_device = settings.per_device or min(upstream, stage.batch // settings.gpus)
    steps, rest = divmod(stage.batch, max(per_device, 1) * settings.gpus)
    if rest or not steps:
        raise ValueError(
            f"the published global batch size of {stage.batch} is no multiple of {per_device} per device x "
            f"{settings.gpus} GPUs. Choose another --per-device-batch-size or --gpus"
        )
    return per_device, steps
