"""``vista.json``: what a run trained with, beside its checkpoints."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .log import warn_once

if TYPE_CHECKING:
    from .attachment import Handle
    from .config import VistaConfig

FILE_NAME = "vista.json"
_PACKAGES = ("llava-vista", "torch", "transformers", "accelerate", "deepspeed", "peft", "trl", "llava-torch")


def versions() -> dict[str, str]:
    """Installed versions of what matters to a run, and Python's."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def run_record(handle: Handle, world_size: int) -> dict[str, Any]:
    """The content of ``vista.json``."""
    return {
        "config": handle.config.to_dict(),
        "adapter": handle.adapter.name,
        "model_class": f"{type(handle.inner).__module__}.{type(handle.inner).__qualname__}",
        "decoder_class": f"{type(handle.decoder).__module__}.{type(handle.decoder).__qualname__}",
        "world_size": world_size,
        "versions": versions(),
    }


def warn_of_changes(output_dir: str, config: VistaConfig) -> None:
    """A resumed run: say which options differ from those that the run has been trained with so far."""
    path = os.path.join(output_dir, FILE_NAME)
    try:
        with open(path, encoding="utf-8") as file:
            before = json.load(file)["config"]
    except FileNotFoundError:
        warn_once(
            f"this run is resumed with VISTA, but there is no {path}: up to here it was trained without VISTA, or "
            "that file was not kept. The result is neither a baseline nor a VISTA run."
        )
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn_once(f"{path} cannot be read ({error!r}); whether VISTA options changed is unknown.")
        return
    now = config.to_dict()
    changed = [
        f"{name} {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if changed:
        warn_once(f"this run is resumed with other VISTA options than before: {', '.join(changed)}.")


def write_run_record(output_dir: str, handle: Handle, world_size: int) -> None:
    """Write ``vista.json`` to ``output_dir``. A full disk or the like is a warning: training goes on."""
    path = os.path.join(output_dir, FILE_NAME)
    try:
        os.makedirs(output_dir, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(run_record(handle, world_size), file, indent=2)
            file.write("\n")
    except OSError as error:
        warn_once(f"{path} could not be written ({error}); training goes on without it.")
