"""``vista.json``: what a run trained with, beside its checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ..logging import warn_once

if TYPE_CHECKING:
    from ..attach.handle import Handle
    from ..config import VistaConfig

FILE_NAME = "vista.json"
#: A key that ends in one of these is left out: the file travels with checkpoints.
_SECRETS = ("token", "secret", "password", "api_key")
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


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, without what looks like a secret."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not str(key).lower().endswith(_SECRETS)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def data_record(dataset: Any) -> dict[str, Any]:
    """What tells one training set from another: number of samples, and LLaVA's data arguments with the file's size.

    The file is not read: LLaVA's is 1 GB.
    """
    record: dict[str, Any] = {}
    with contextlib.suppress(TypeError, NotImplementedError):  # a stream has no length
        record["samples"] = len(dataset)
    arguments = getattr(dataset, "data_args", None)
    for name in ("data_path", "image_folder", "image_aspect_ratio"):
        value = getattr(arguments, name, None)
        if isinstance(value, str):
            record[name] = value
    if os.path.isfile(record.get("data_path", "")):
        record["data_bytes"] = os.path.getsize(record["data_path"])
    return record


def run_record(handle: Handle, trainer: Any) -> dict[str, Any]:
    """The content of ``vista.json``. What the host was told stands in it so that two runs can be compared later."""
    return {
        "config": handle.config.to_dict(),
        "adapter": handle.adapter.name,
        "model_class": f"{type(handle.inner).__module__}.{type(handle.inner).__qualname__}",
        "decoder_class": f"{type(handle.decoder).__module__}.{type(handle.decoder).__qualname__}",
        "world_size": trainer.args.world_size,
        "versions": versions(),
        "data": data_record(trainer.train_dataset),
        "training_arguments": _plain(trainer.args.to_dict()),
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


def write_run_record(handle: Handle, trainer: Any) -> None:
    """Write ``vista.json`` to the output directory. A full disk or the like is a warning: training goes on."""
    output_dir = trainer.args.output_dir
    path = os.path.join(output_dir, FILE_NAME)
    try:
        os.makedirs(output_dir, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(run_record(handle, trainer), file, indent=2)
            file.write("\n")
    except OSError as error:
        warn_once(f"{path} could not be written ({error}); training goes on without it.")
