"""Everything that must be right before a GPU hour is spent, checked in one go: nothing stops at the first problem."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from ...errors import ReproduceError
from ...hooks.run_record import versions
from ..kit.fresh_interpreter import imported_at_start
from ..kit.host_source import package_folders
from ..kit.json_files import BadFile, read_object
from ..kit.report import Checklist
from .launch_script import find_program, read_flags
from .planned_trainings import ReproduceSettings, global_batch, planned_trainings
from .recipes import PRETRAIN, Recipe, Stage
from .training_inputs import check_checkpoint, check_data, check_generation_config, check_tokens

#: Imported by the upstreams' training; the second ones on GPUs only.
PACKAGES, GPU_PACKAGES = ("torch", "transformers", "accelerate", "sentencepiece", "PIL"), ("deepspeed", "flash_attn")
#: Packages whose version may change a result, where an upstream's pyproject.toml demands one.
_PIN = re.compile(r"""["'](torch|transformers|accelerate|deepspeed)==([0-9][^"',; ]*)["']""")


def check_training(settings: ReproduceSettings) -> tuple[Checklist, dict[str, list[str]]]:
    """Return the checklist, and each stage's recorded command (none where the upstream is missing)."""
    checklist, recipe = Checklist(), settings.recipe
    stages = [recipe.stages[name] for name in settings.stages]
    recorded: dict[str, list[str]] = {}
    for stage in stages if _check_upstream(checklist, recipe, settings.root, stages) else ():
        try:
            recorded[stage.name] = settings.launch_script(stage).record()
        except ReproduceError as error:
            checklist.wrong("upstream", str(error))
        else:
            check_published(checklist, settings, stage, recorded[stage.name])
    _check_programs(checklist, recipe, settings.root)
    if not recipe.cpu:
        _check_gpus(checklist, settings.gpus, max(stage.memory for stage in stages))
    needed = sum(run.stage.disk for run in planned_trainings(settings) if not run.is_done)
    place = next(folder for folder in (settings.output, *settings.output.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    advice = ". Name another place with --output." if free < needed else ""
    text = f"{free:.0f} GB free at {place}, about {needed:.0f} GB needed for the results{advice}"
    (checklist.wrong if advice else checklist.ok)("disk", text)
    base = check_checkpoint(checklist, "base model", settings.base)
    check_checkpoint(checklist, "vision tower", settings.tower)
    if base is not None:
        check_generation_config(checklist, base)
    for data in dict.fromkeys(stage.data for stage in stages):  # two stages may share one
        samples = check_data(checklist, data, settings.data_root)
        commands = [recorded[stage.name] for stage in stages if stage.data == data and stage.name in recorded]
        version = read_flags(commands[0]).get("version", "plain") if commands else "plain"
        if recipe.package != "llava":
            checklist.note("tokenization", "not tried before training; a training that reports mismatches is stopped")
        elif samples and base and settings.root and version != "plain":
            check_tokens(checklist, settings.root, base, version, samples)
    _check_earlier(checklist, settings)
    return checklist, recorded


def _check_upstream(checklist: Checklist, recipe: Recipe, root: Path | None, stages: list[Stage]) -> bool:
    """Check the checkout, its launch scripts and that Python imports its code; return whether the scripts are there."""
    label, package = "upstream", recipe.package
    if root is None or not root.is_dir():
        said = f"{root} is not a directory" if root else f"{recipe.root_variable} is not set"
        checklist.wrong(label, f"{said}: the checkout of {recipe.title}'s code. Set it, or --root.")
        return False
    if lost := [stage.script for stage in stages if not (root / stage.script).is_file()]:
        checklist.wrong(label, f"{root} has no {', '.join(lost)}: it is no checkout of {recipe.title}'s code.")
        return False
    commit = _output("git", "-C", str(root), "log", "-1", "--format= at %h, %cs", "--", ".")
    checklist.ok(label, f"{root}{commit.rstrip()}")
    folders = [folder.resolve() for folder in package_folders(package)]
    is_inside = any(folder.is_relative_to(root.resolve()) for folder in folders)
    if not folders or not (recipe.cpu or is_inside):
        found = f"imports {package} from {folders[0]}, not from {root}" if folders else f"has no {package}"
        checklist.wrong(label, f"Python {found}: pip install --no-deps -e {root}.")
    return True


def _output(*command: str) -> str:
    """Return what a program prints; "" where there is no such program, or where it does not end."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def check_published(checklist: Checklist, settings: ReproduceSettings, stage: Stage, recorded: list[str]) -> None:
    """Compare the upstream's own command with the published numbers, the global batch size and the ZeRO stage."""
    label, flags = f"{stage.name} as published", read_flags(recorded)
    try:
        per_device, steps = global_batch(settings, stage, recorded)
    except (ValueError, KeyError) as error:
        checklist.wrong(label, f"global batch size: {error}.")
    else:
        parts = f"{per_device} per device x {settings.gpus} GPUs x {steps} accumulated"
        checklist.ok(label, f"global batch size {stage.batch} = {parts}")
    try:
        zero = read_object((settings.root or Path()) / flags.get("deepspeed", ""))["zero_optimization"]["stage"]
    except (BadFile, KeyError, TypeError):
        zero = None
    wrong = [
        f"{name} is {flags.get(name, 'not given')}, published {value:g}"
        for name, value in stage.published.items()
        if not _is_number(flags.get(name, ""), value)
    ]
    if stage.zero not in (None, zero):
        wrong.append(f"ZeRO stage is {zero}, published {stage.zero}")
    if wrong:
        checklist.wrong(label, f"{stage.script}: {'; '.join(wrong)}. Is this another version of the script?")
    else:
        numbers = ", ".join(f"{name} {value:g}" for name, value in stage.published.items())
        checklist.ok(label, f"{numbers}{f', ZeRO-{zero}' if zero is not None else ''}, in the upstream's own script")


def _is_number(text: str, value: float) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def _check_programs(checklist: Checklist, recipe: Recipe, root: Path | None) -> None:
    """Check the launcher, the packages, their versions against the upstream's pins, and the start-up hook."""
    if not recipe.cpu:
        program = find_program("deepspeed")
        missing = "there is no deepspeed on PATH: pip install deepspeed."
        (checklist.ok if program else checklist.wrong)("launcher", program or missing)
    wanted = PACKAGES if recipe.cpu else (*PACKAGES, *GPU_PACKAGES)
    if lost := [name for name in wanted if importlib.util.find_spec(name) is None]:
        checklist.wrong("packages", f"not installed here: {', '.join(lost)}. Install what {recipe.title} asks for.")
    checklist.ok("versions", ", ".join(f"{name} {number}" for name, number in versions().items()))
    project = (root or Path("nowhere")) / "pyproject.toml"
    for name, pinned in _PIN.findall(project.read_text(encoding="utf-8")) if project.is_file() else ():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if found.partition("+")[0] != pinned:
            checklist.note("versions", f"{name} {found}, the upstream pins {pinned}.")
    modules, complaint = imported_at_start(None, "--vista")
    if "llava_vista.hooks" in modules:
        checklist.ok("--vista", "the start-up hook is active in a new Python")
    else:
        checklist.wrong("--vista", f"does nothing in a new Python ({complaint or 'see llava-vista doctor'}).")


def find_gpus() -> list[tuple[str, float]]:
    """Return the names and GB that nvidia-smi lists; nothing without it."""
    listed = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    rows = [line.rpartition(",") for line in listed.splitlines()]
    return [(name.strip(), float(size) / 1024) for name, _, size in rows if size.strip().isdigit()]


def _check_gpus(checklist: Checklist, wanted: int, published: int) -> None:
    """Check that there are as many GPUs as asked for, and note smaller ones than were published (GB)."""
    found = find_gpus()
    if len(found) < wanted:
        names = ", ".join(sorted({name for name, _ in found})) or "nvidia-smi lists none"
        checklist.wrong("GPUs", f"{len(found)} found ({names}), {wanted} wanted. Say how many there are: --gpus N.")
        return
    smallest = min(gigabytes for _, gigabytes in found[:wanted])
    checklist.ok("GPUs", f"{wanted} of {len(found)}: {found[0][0]}, {smallest:.0f} GB")
    if smallest < 0.9 * published:
        advice = "choose a smaller --per-device-batch-size; accumulation keeps the global batch size"
        checklist.note("GPUs", f"published on {published} GB each. If memory runs out, {advice}.")


def _check_earlier(checklist: Checklist, settings: ReproduceSettings) -> None:
    """Check what earlier commands must have left, and note what they have left over."""
    recipe, begins = settings.recipe, PRETRAIN in settings.stages
    for run in planned_trainings(settings):
        if run.is_done:
            checklist.note("done", f"{run}: {run.folder} is complete, and is kept")
        elif any(run.folder.glob("checkpoint-*")):
            checklist.note("resumed", f"{run}: continues from the last checkpoint in {run.folder}")
        elif run.folder.is_dir() and any(run.folder.iterdir()):
            checklist.note("left over", f"{run}: {run.folder} is not empty and not complete; it is trained again")
        first = run.pretrained / recipe.stages[PRETRAIN].result
        if not begins and not first.is_file():
            checklist.wrong("stage 1", f"{run} starts from {first}, which is not there: run {PRETRAIN} first.")
    if begins and recipe.projector:
        made = sum(settings.shared_projector(seed).is_file() for seed in settings.seeds)
        counted = f"{made} of {len(settings.seeds)} made already"
        checklist.ok("paired start", f"each seed's arms begin with the same untrained projector ({counted})")
    elif begins:
        checklist.note(
            "paired start",
            f"{recipe.title} makes its connector before the seed is set and takes none from outside in stage 1, so a "
            "seed's arms start from different ones. Data order and everything after it are the same.",
        )
