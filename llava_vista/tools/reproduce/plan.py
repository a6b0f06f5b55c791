"""Which runs there are, where each one's parts lie, and what exactly would be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .checkpoints import is_model
from .launch import Change, Recorded, find_program, record
from .recipes import LORA, PRETRAIN, Recipe, Stage

BASELINE = "baseline"


@dataclass(frozen=True)
class Settings:
    """What the user chose. ``flags`` are VISTA's for the other arm."""

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
    flags: tuple[str, ...]

    def arm_folder(self, seed: int, arm: str) -> Path:
        return self.output / f"seed{seed}" / arm


@dataclass(frozen=True)
class Run:
    """One stage of one arm with one seed."""

    stage: Stage
    arm: str
    seed: int
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / self.stage.result

    @property
    def is_done(self) -> bool:
        """Finished, here or earlier: its result is there, and its log."""
        there = is_model(self.folder) if self.stage.result == "config.json" else self.result.is_file()
        return there and (self.folder / "trainer_state.json").is_file()

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.arm}, {self.stage.name}"


def runs(settings: Settings) -> Iterator[Run]:
    """In the order in which they are run: a seed's two arms one after the other, stage by stage."""
    for seed in settings.seeds:
        for arm in settings.arms:
            for name in settings.stages:
                stage = settings.recipe.stage(name)
                yield Run(stage, arm, seed, settings.arm_folder(seed, arm) / stage.folder)


def shared_projector(settings: Settings, seed: int) -> Path:
    """The untrained projector that both arms of a seed start from: LLaVA makes its own before it sets the seed."""
    return settings.output / f"seed{seed}" / "untrained_projector.bin"


def batch(settings: Settings, stage: Stage, recorded: Recorded) -> tuple[int, int]:
    """Per-device batch size and accumulation steps that give the published global batch size on these GPUs.

    Raises:
        ValueError: it cannot be reached exactly.
    """
    per_device = settings.per_device or min(
        int(recorded.flags["per_device_train_batch_size"]), stage.batch // settings.gpus
    )
    steps, rest = divmod(stage.batch, max(per_device, 1) * settings.gpus)
    if rest or not steps:
        raise ValueError(
            f"the published global batch size of {stage.batch} is no multiple of {per_device} per device x "
            f"{settings.gpus} GPUs; choose another --per-device-batch-size or --gpus"
        )
    return per_device, steps


def words(settings: Settings, run: Run) -> list[str]:
    """The launch script's own arguments (TinyLLaVA's take ten)."""
    return [word.format(**_places(settings, run)) for word in run.stage.words]


def change(settings: Settings, run: Run, recorded: Recorded) -> Change:
    """What is set on the script's command line."""
    per_device, steps = batch(settings, run.stage, recorded)
    places = {**_places(settings, run), "per_device": str(per_device), "accumulation": str(steps)}
    values = {flag: text.format(**places) for flag, text in run.stage.values.items()}
    recipe = settings.recipe
    launcher: tuple[str, ...] = (find_program("deepspeed") or "deepspeed", "--num_gpus", str(settings.gpus))
    drop: tuple[str, ...] = ()
    if recipe.cpu:
        launcher, drop = (find_program("python") or "python",), ("--deepspeed", "--bf16", "--tf32")
    return Change(launcher, values, drop, settings.flags if run.arm != BASELINE else ())


def _places(settings: Settings, run: Run) -> Mapping[str, str]:
    arm = settings.arm_folder(run.seed, run.arm)
    pretrained = arm / settings.recipe.stage(PRETRAIN).folder
    projector = settings.recipe.projector
    return {
        "output": str(run.folder),
        "annotations": str(settings.data_root / run.stage.data.annotations),
        "images": str(settings.data_root / run.stage.data.images),
        "base": settings.base,
        "tower": settings.tower,
        "seed": str(run.seed),
        "pretrained": str(pretrained),
        "projector": str(
            shared_projector(settings, run.seed) if run.stage.name == PRETRAIN else pretrained / (projector or "")
        ),
    }


def record_all(settings: Settings, root: Path) -> dict[str, Recorded]:
    """Each stage's command line as the upstream's script has it."""
    first: dict[str, Run] = {}
    for run in runs(settings):
        first.setdefault(run.stage.name, run)
    return {name: record(root, run.stage.script, words(settings, run)) for name, run in first.items()}


def evaluated(settings: Settings, seed: int, arm: str, names: Sequence[str]) -> Path:
    """The folder of the model that is evaluated: fine-tuned, and merged where LoRA was used."""
    name = next(name for name in reversed(names) if name != PRETRAIN)
    stage = settings.recipe.stage(name)
    folder = settings.arm_folder(seed, arm) / stage.folder
    return merged_folder(folder) if name == LORA and settings.recipe.merge_script else folder


def merged_folder(lora: Path) -> Path:
    """Not called "lora": LLaVA's loader would look for an adapter there."""
    return lora.with_name(lora.name.replace("-lora", "-merged"))
