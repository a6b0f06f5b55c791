"""The machine and what is installed on it: checkout, launcher, packages, start-up hook, GPUs, disk."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from ...hooks.run_record import versions
from ..kit.fresh_interpreter import imported_at_start
from ..kit.host_source import package_folders
from ..kit.report import Checklist
from .launch_script import find_program
from .recipes import Recipe, Stage

#: Imported by the upstreams' training.
PACKAGES = ("torch", "transformers", "accelerate", "sentencepiece", "PIL")
GPU_PACKAGES = ("deepspeed", "flash_attn")
#: Packages whose version may change a result.
PINNED = ("torch", "transformers", "accelerate", "deepspeed")
_PIN = re.compile(r"""["']([A-Za-z0-9_.-]+)==([0-9][^"',; ]*)["']""")


def check_upstream(checklist: Checklist, recipe: Recipe, root: Path | None, stages: list[Stage]) -> bool:
    """Check the checkout, its launch scripts and that Python imports its code; return whether the scripts are there."""
    label = "upstream"
    if root is None or not root.is_dir():
        said = f"{root} is not a directory" if root is not None else f"{recipe.root_variable} is not set"
        checklist.wrong(label, f"{said}: the checkout of {recipe.title}'s code. Set it, or --root.")
        return False
    if lost := [stage.script for stage in stages if not (root / stage.script).is_file()]:
        checklist.wrong(label, f"{root} has no {', '.join(lost)}: it is no checkout of {recipe.title}'s code.")
        return False
    commit = _commit(root)
    checklist.ok(label, f"{root}{f' at {commit}' if commit else ''}")
    folders = [folder.resolve() for folder in package_folders(recipe.package)]
    if not folders or not (recipe.cpu or any(folder.is_relative_to(root.resolve()) for folder in folders)):
        found = (
            f"imports {recipe.package} from {folders[0]}, not from {root}" if folders else f"has no {recipe.package}"
        )
        checklist.wrong(label, f"Python {found}: pip install --no-deps -e {root}.")
    return True


def _commit(root: Path) -> str:
    """Return the short name and date of a checkout's commit; "" where git has none."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%h, %cs", "--", "."]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def check_programs(checklist: Checklist, recipe: Recipe, root: Path | None) -> None:
    """Check the launcher, the packages, their versions against the upstream's pins, and the start-up hook."""
    wanted = PACKAGES if recipe.cpu else (*PACKAGES, *GPU_PACKAGES)
    if not recipe.cpu:
        if program := find_program("deepspeed"):
            checklist.ok("launcher", program)
        else:
            checklist.wrong("launcher", "there is no deepspeed on PATH: pip install deepspeed.")
    if lost := [name for name in wanted if importlib.util.find_spec(name) is None]:
        checklist.wrong("packages", f"not installed here: {', '.join(lost)}. Install what {recipe.title} asks for.")
    checklist.ok("versions", ", ".join(f"{name} {number}" for name, number in versions().items()))
    for name, pinned in _pins(root).items():
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


def _pins(root: Path | None) -> dict[str, str]:
    """Return the versions that the upstream's pyproject.toml demands with ``==``."""
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8") if root else ""
    except OSError:
        return {}
    return {name: version for name, version in _PIN.findall(text) if name in PINNED}


def find_gpus() -> list[tuple[str, float]]:
    """Return the names and GB that nvidia-smi lists; nothing without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    words = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return [(name.strip(), float(size) / 1024) for name, size in rows if size.strip().isdigit()]


def check_gpus(checklist: Checklist, wanted: int, stages: list[Stage]) -> None:
    """Check that there are as many GPUs as asked for, and note smaller ones than were published."""
    found = find_gpus()
    if len(found) < wanted:
        names = ", ".join(sorted({name for name, _ in found})) or "nvidia-smi lists none"
        checklist.wrong("GPUs", f"{len(found)} found ({names}), {wanted} wanted. Say how many there are: --gpus N.")
        return
    smallest = min(gigabytes for _, gigabytes in found[:wanted])
    checklist.ok("GPUs", f"{wanted} of {len(found)}: {found[0][0]}, {smallest:.0f} GB")
    need = max(stage.memory for stage in stages)
    if smallest < 0.9 * need:
        advice = "choose a smaller --per-device-batch-size; accumulation keeps the global batch size"
        checklist.note("GPUs", f"published on {need} GB each. If memory runs out, {advice}.")


def check_disk(checklist: Checklist, output: Path, gigabytes: float) -> None:
    """Check that the results that are still to be made have room."""
    place = next(folder for folder in (output, *output.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    text = f"{free:.0f} GB free at {place}, about {gigabytes:.0f} GB needed for the results"
    if free < gigabytes:
        checklist.wrong("disk", f"{text}. Name another place with --output.")
    else:
        checklist.ok("disk", text)
