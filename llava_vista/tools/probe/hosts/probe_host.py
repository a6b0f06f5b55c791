"""The seam between the probe and a model family: load a checkpoint, turn image and words into a batch.

What a family does with images inside the model is in its adapter (`llava_vista.adapters`), not here.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor

from ....errors import ProbeError, UnsupportedModelError
from ....registry import Registry
from ..conversation_samples import Turn

#: How to measure what is not loaded here.
IN_TRAINING = "llava-vista probe -- COMMAND ARGS"


@dataclass(frozen=True)
class LoadOptions:
    """How to load."""

    #: the language model that a projector or LoRA checkpoint belongs to
    base: Path | None
    #: conversation template of the host; its default when None
    template: str | None
    device: torch.device
    dtype: torch.dtype


class ProbeHost(ABC):
    """A model family. The class is its data sheet; an instance is one loaded checkpoint.

    Subclass it, decorate it with `register_host`, and load the folder in ``__init__``, which sets:

    model: in eval mode, with eager attention; `llava_vista.attach` must know it.
    tokenizer: of the checkpoint.
    notes: how it was loaded, by name; written to the JSON.
    """

    #: Set by `register_host`.
    name: ClassVar[str] = ""
    #: Values of ``architectures`` and of ``model_type`` in config.json that this host loads.
    architectures: ClassVar[tuple[str, ...]] = ()
    model_types: ClassVar[tuple[str, ...]] = ()

    model: Any
    tokenizer: Any
    notes: dict[str, str]

    @abstractmethod
    def __init__(self, folder: Path, config: dict[str, Any], options: LoadOptions) -> None:
        """Load a checkpoint folder with this config.json, or raise a ProbeError that says what is missing."""

    @classmethod
    def known(cls) -> list[str]:
        """Return the names in config.json that it loads."""
        return [*cls.architectures, *cls.model_types]

    @classmethod
    def claims(cls, config: dict[str, Any]) -> bool:
        """Return whether the checkpoint is one of this family's."""
        return not set(cls.known()).isdisjoint([*(config.get("architectures") or []), config.get("model_type")])

    @classmethod
    def missing(cls, config: dict[str, Any]) -> str | None:
        """Return why a checkpoint that it claims cannot be loaded in this environment; None when it can.

        Several repositories save checkpoints that look alike, so the code that is here is looked at. Imports nothing.
        """
        return None

    def run(self, batch: dict[str, Any]) -> Any:
        """Run one forward on a batch of `collate`. The output has ``logits`` (B, L, V)."""
        return self.model(**batch)

    @abstractmethod
    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        """Return one conversation with its image, for `collate`.

        It has at least ``input_ids`` (T,) and ``labels`` (T,): the id at answer tokens, negative elsewhere.
        """

    @abstractmethod
    def collate(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch for `run` on the device, padded on the right: ids, labels, mask (B, T), and the images.

        T may be longer than in `encode`, where a processor makes room for images.
        """

    @abstractmethod
    def answer(self, turns: Sequence[Turn], image: Image, max_new_tokens: int) -> tuple[str, bool]:
        """Return the greedy answer to the last turn's question, and whether it was cut off at ``max_new_tokens``."""

    @abstractmethod
    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        """Return (B, d_vision): the vision tower's output before any projector, averaged over its positions."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return token ids as text, without special tokens: Llama's would add a space in front of everything."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


HOSTS: Registry[type[ProbeHost]] = Registry("probe host", builtin="llava_vista.tools.probe.hosts")


def register_host(name: str) -> Callable[[type[ProbeHost]], type[ProbeHost]]:
    """Class decorator: make the host known as ``name``.

    Raises:
        RegistryError: the name is taken.
    """

    def register(cls: type[ProbeHost]) -> type[ProbeHost]:
        cls.name = name
        HOSTS.add(name, cls)
        return cls

    return register


def load_checkpoint(folder: Path, options: LoadOptions) -> ProbeHost:
    """Load a checkpoint with the host that knows its config.json.

    Raises:
        ProbeError, UnsupportedModelError: there is no checkpoint, or as `choose_host`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ProbeError(
            f"{folder} holds no {path.name}; a checkpoint folder was expected, as a training run saves it. (Download a "
            "model from a hub first.)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ProbeError(f"{path} is not JSON ({error}). Is the download complete?") from error
    return choose_host(folder, config)(folder, config, options)


def choose_host(folder: Path, config: dict[str, Any]) -> type[ProbeHost]:
    """Return the host that knows this config.json and whose code is importable here.

    Raises:
        ProbeError: its code is not importable, or another repository's is in its place (names what was found).
        UnsupportedModelError: no host knows it (lists the known names).
    """
    found = ", ".join(config.get("architectures") or []) or f"model_type {config.get('model_type')!r}"
    other = f"A checkpoint of another repository is measured in that repository's own training script: {IN_TRAINING}."
    claiming = {host: host.missing(config) for host in HOSTS if host.claims(config)}
    if not claiming:
        known = "; ".join(f"{host.name} ({', '.join(host.known())})" for host in HOSTS)
        raise UnsupportedModelError(f"the probe does not load {found} ({folder}). {other} Loaded here: {known}.")
    ready = [host for host, missing in claiming.items() if missing is None]
    if not ready:
        reasons = "; ".join(f"{host.name}: {missing}" for host, missing in claiming.items())
        raise ProbeError(
            f"{folder} ({found}) needs the code that trained it: {reasons}. Install it in this environment, or put its "
            f"checkout on PYTHONPATH. {other}"
        )
    return ready[0]
