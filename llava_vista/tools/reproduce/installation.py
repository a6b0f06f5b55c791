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

#: Imported by the upstreams' training, and of those the ones that are for GPUs.
PACKAGES = ("torch", "transformers", "accelerate", "sentencepiece", "PIL", "deepspeed", "flash_attn")
GPU_PACKAGES = ("deepspeed", "flash_attn")
#: Demanded with ``==`` by an upstream's pyproject.toml: packages whose version may change a result.
_PIN = re.compile(r"""["'](torch|transformers|accelerate|deepspeed)==([0-9][^"',; ]*)["']""")


def check_upstream(checklist: Checklist, recipe: Recipe, root: Path | None, stages: list[Stage]) -> bool:
    """Check the checkout, its launch scripts and that Python imports its code; return whether the scripts are there."""
    label, package = "upstream", recipe.package
    if root is None or not root.is_dir():
        said = f"{root} is not a directory" if root else f"{recipe.root_variable} is not set"
        checklist.wrong(label, f"{said}: the checkout of {recipe.title}'s code. Set it, or --root.")
        return False
    if lost := [stage.script for stage in stages if not (root / stage.script).is_file()]:
        checklist.wrong(label, f"{root} has no {', '.join(lost)}: it is no checkout of {recipe.title}'s code.")
        return False
    command = ["git", "-C", str(root), "log", "-1", "--format= at %h, %cs", "--", "."]
    commit = _output(command).rstrip()
    checklist.ok(label, f"{root}{commit}")
    folders = [folder.resolve() for folder in package_folders(package)]
    if not folders:
        checklist.wrong(label, f"Python has no {package}: pip install --no-deps -e {root}.")
    elif not (recipe.cpu or any(folder.is_relative_to(root.resolve()) for folder in folders)):
        found = f"Python imports {package} from {folders[0]}, not from {root}"
        checklist.wrong(label, f"{found}: pip install --no-deps -e {root}.")
    return True


def _output(command: list[str]) -> str:
    """Return what a program prints; "" where there is no such program, or where it does not end."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def check_programs(checklist: Checklist, recipe: Recipe, root: Path | None) -> None:
    """Check the launcher, the packages, their versions against the upstream's pins, and the start-up hook."""
    if not recipe.cpu:
        if program := find_program("deepspeed"):
            checklist.ok("launcher", program)
        else:
            checklist.wrong("launcher", "there is no deepspeed on PATH: pip install deepspeed.")
    wanted = [name for name in PACKAGES if not (recipe.cpu and name in GPU_PACKAGES)]
    if lost := [name for name in wanted if importlib.util.find_spec(name) is None]:
        checklist.wrong("packages", f"not installed here: {', '.join(lost)}. Install what {recipe.title} asks for.")
    checklist.ok("versions", ", ".join(f"{name} {number}" for name, number in versions().items()))
    project = root / "pyproject.toml" if root else None
    for name, pinned in _PIN.findall(project.read_text(encoding="utf-8")) if project and project.is_file() else ():
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
    lines = _output(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]).splitlines()
    rows = [line.rpartition(",") for line in lines]
    return [(name.strip(), float(size) / 1024) for name, _, size in rows if size.strip().isdigit()]


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
