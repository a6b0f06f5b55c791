"""The machine: GPUs, disk, programs and versions."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from ...errors import VistaError
from ...hooks.run_record import versions
from ..kit.fresh_interpreter import imported_at_start
from ..kit.host_source import package_folders
from ..patch.repository import commit
from ..patch.upstreams import recognise, version
from .checklist import Checklist
from .launch import find_program
from .recipes import Recipe, Stage

#: Imported by the upstreams' training, by the names that Python knows them by.
PACKAGES = ("torch", "transformers", "accelerate", "sentencepiece", "deepspeed", "flash_attn", "PIL")
CPU_PACKAGES = ("torch", "transformers", "accelerate", "sentencepiece", "PIL")


class Gpu(NamedTuple):
    name: str
    gigabytes: float


def gpus() -> list[Gpu]:
    """What nvidia-smi lists; empty without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    words = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return [Gpu(name.strip(), float(size) / 1024) for name, size in rows if size.strip().isdigit()]


def check_gpus(checklist: Checklist, wanted: int, stages: list[Stage]) -> None:
    """As many as asked for, and as large as the published runs had."""
    found = gpus()
    if len(found) < wanted:
        names = ", ".join(sorted({gpu.name for gpu in found})) or "nvidia-smi lists none"
        checklist.missing("GPUs", f"{len(found)} found ({names}), {wanted} wanted. Say how many there are: --gpus N.")
        return
    smallest = min(gpu.gigabytes for gpu in found[:wanted])
    checklist.ok("GPUs", f"{wanted} of {len(found)}: {found[0].name}, {smallest:.0f} GB")
    need = max(stage.memory for stage in stages)
    if smallest < 0.9 * need:
        checklist.note(
            "GPUs",
            f"published on {need} GB each. If memory runs out: a smaller --per-device-batch-size (accumulation makes "
            "up for it).",
        )


def check_disk(checklist: Checklist, output: Path, gigabytes: float) -> None:
    """Room for every result that is still to be made."""
    place = next(folder for folder in (output, *output.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    text = f"{free:.0f} GB free at {place}, about {gigabytes:.0f} GB needed for the results"
    if free < gigabytes:
        checklist.missing("disk", f"{text}. Name another place with --output.")
    else:
        checklist.ok("disk", text)


def check_upstream(checklist: Checklist, recipe: Recipe, root: Path | None, stages: list[Stage]) -> bool:
    """The checkout, its launch scripts, and that Python imports this one.

    Returns:
        whether the scripts can be asked for their command lines.
    """
    label = "upstream"
    if root is None or not root.is_dir():
        said = f"{root} is not a directory" if root is not None else f"{recipe.root_variable} is not set"
        checklist.missing(
            label, f"{said}: the checkout of {recipe.title}'s code. Set {recipe.root_variable} or --root."
        )
        return False
    try:
        upstream = recognise(root)
    except VistaError:
        checklist.missing(label, f"{root} is no checkout of {recipe.title}'s code.")
        return False
    if upstream.name != recipe.upstream:
        checklist.missing(label, f"{root} is {upstream.title}; {recipe.title} is trained with another repository.")
        return False
    at = commit(root)
    checklist.ok(label, f"{root}: {upstream.title} {version(root)}{f' at {at}' if at else ''}")
    lost = [stage.script for stage in stages if not (root / stage.script).is_file()]
    if lost:
        checklist.missing(label, f"{root} has no {', '.join(lost)}.")
    folders = package_folders(recipe.package)
    if not folders:
        checklist.missing(label, f"Python cannot import {recipe.package}: pip install --no-deps -e {root}.")
    elif not any(folder.resolve().is_relative_to(root.resolve()) for folder in folders) and not recipe.cpu:
        checklist.missing(
            label,
            f"Python imports {recipe.package} from {folders[0]}, not from {root}: pip install --no-deps -e {root}.",
        )
    return not lost


def check_programs(checklist: Checklist, recipe: Recipe, root: Path | None) -> None:
    """The launcher, the packages, their versions against the upstream's pins, and the start-up hook."""
    if not recipe.cpu:
        program = find_program("deepspeed")
        if program is None:
            checklist.missing("launcher", "there is no deepspeed on PATH: pip install deepspeed.")
        else:
            checklist.ok("launcher", program)
    wanted = CPU_PACKAGES if recipe.cpu else PACKAGES
    lost = [name for name in wanted if importlib.util.find_spec(name) is None]
    if lost:
        checklist.missing("packages", f"not installed here: {', '.join(lost)}. Install what {recipe.title} asks for.")
    checklist.ok("versions", ", ".join(f"{name} {number}" for name, number in versions().items()))
    for name, pinned in _pins(root).items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if found.partition("+")[0] != pinned and name in ("torch", "transformers", "accelerate", "deepspeed"):
            checklist.note("versions", f"{name} {found}, the upstream pins {pinned}.")
    modules, complaint = imported_at_start(None, "--vista")
    if "llava_vista.hooks" in modules:
        checklist.ok("--vista", "the start-up hook is live in a fresh Python")
    else:
        checklist.missing("--vista", f"does nothing in a fresh Python ({complaint or 'see llava-vista doctor'}).")


def _pins(root: Path | None) -> dict[str, str]:
    """``package==version`` in the upstream's pyproject.toml."""
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8") if root else ""
    except OSError:
        return {}
    return dict(re.findall(r"""["']([A-Za-z0-9_.-]+)==([0-9][^"',; ]*)["']""", text))
