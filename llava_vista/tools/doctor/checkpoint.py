"""A checkpoint directory: its config.json tells the model class, and with it the adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .report import Section

if TYPE_CHECKING:
    from ...adapters import Adapter

CONFIG_FILE = "config.json"
RUN_RECORD = "vista.json"


@dataclass(frozen=True)
class Checkpoint:
    """What ``config.json`` says about the model."""

    architectures: tuple[str, ...]
    model_type: str | None
    vision_tower: str | None
    #: it says something about vision, be it in the host's way or in transformers'
    sees: bool


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder's config.json is a model's; a file that cannot be read counts, so that it is reported."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    try:
        config = _read(folder)
    except ValueError:
        return True
    return "architectures" in config or "model_type" in config


def _read(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"a JSON object was expected, found {type(config).__name__}")
    return config


def inspect_checkpoint(folder: Path) -> Checkpoint:
    """Read the folder's config.json.

    Raises:
        ValueError: it is not a JSON object.
    """
    config = _read(folder)
    architectures = config.get("architectures")
    tower = config.get("mm_vision_tower") or config.get("vision_tower")
    return Checkpoint(
        architectures=tuple(str(name) for name in architectures) if isinstance(architectures, list) else (),
        model_type=config.get("model_type"),
        vision_tower=tower if isinstance(tower, str) else None,
        sees=any("vision" in key or key.startswith("mm_") for key in config),
    )


def adapters_for(class_name: str, adapters: Sequence[Adapter]) -> list[tuple[Adapter, str]]:
    """The adapters that know a class of that name, with its qualified name: the config has the bare one only."""
    return [
        (adapter, qualified)
        for adapter in adapters
        for qualified in adapter.classes
        if qualified.rpartition(".")[2] == class_name
    ]


def report_checkpoint(section: Section, folder: Path, adapters: Sequence[Adapter]) -> frozenset[str]:
    """Say which adapter the model would get.

    Returns:
        The names of the model classes.
    """
    try:
        checkpoint = inspect_checkpoint(folder)
    except ValueError as error:
        section.wrong(CONFIG_FILE, f"cannot be read ({error}). Is the download complete?")
        return frozenset()
    names = checkpoint.architectures
    section.plain("architectures", ", ".join(names) or "none named")
    section.plain("model_type", checkpoint.model_type or "none named")
    section.plain("vision tower", checkpoint.vision_tower or "none named")
    if (folder / RUN_RECORD).is_file():
        section.plain(RUN_RECORD, "the model was trained with VISTA; the file tells how")
    claims = [claim for name in names for claim in adapters_for(name, adapters)]
    if claims:
        for adapter, qualified in claims:
            section.ok("adapter", f"{adapter.name}, if the class is {qualified}")
        if checkpoint.vision_tower is None and not checkpoint.sees:
            section.note("vision tower", "name one when training (LLaVA: --vision_tower); without images VISTA adds 0")
    elif names and not checkpoint.sees and all(name.endswith("ForCausalLM") for name in names):
        section.note(
            "adapter",
            "none as it is: a text-only language model. A host that is given it together with a vision tower makes one "
            f"of its own classes from it, and that one counts. Known: {known_classes(adapters)}.",
        )
    else:
        section.wrong(
            "adapter",
            f"none knows {' or '.join(names) or 'a class that is not named'}. Known: {known_classes(adapters)}. A "
            "model of another family needs an adapter (register_adapter).",
        )
    return frozenset(names)


def known_classes(adapters: Sequence[Adapter]) -> str:
    """The adapters and their classes, for messages."""
    return "; ".join(
        f"{adapter.name} ({', '.join(name.rpartition('.')[2] for name in adapter.classes) or 'by a rule of its own'})"
        for adapter in adapters
    )
