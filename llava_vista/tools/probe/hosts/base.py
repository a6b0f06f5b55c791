"""The seam between the probe and a model family: how a checkpoint is loaded, and how image and words become a batch.

What a family does with images inside the model is its adapter's business (`llava_vista.adapters`), not this one's.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ....errors import ProbeError, UnsupportedModelError
from ....registry import Registry
from ..data import Turn

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class LoadOptions:
    """How to load.

    Args:
        base: the language model that a projector or LoRA checkpoint belongs to.
        template: conversation template of the host; its default when None.
        device, dtype: where and in what precision to compute.
    """

    base: Path | None
    template: str | None
    device: torch.device
    dtype: torch.dtype


class Subject(ABC):
    """A loaded checkpoint.

    model: called as ``model(**batch)``; `llava_vista.attach` must know it. In eval mode, with eager attention.
    notes: what else there is to say about how it was loaded, by name; written to the JSON.
    """

    model: nn.Module
    notes: dict[str, str]

    def run(self, batch: dict[str, Any]) -> Any:
        """One forward of the model on a batch of `collate`; what comes back has ``logits`` (B, L, V)."""
        return self.model(**batch)

    @abstractmethod
    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        """One conversation with its image, for `collate`.

        Returns:
            at least ``input_ids`` (T,) and ``labels`` (T,): the id at answer tokens, negative elsewhere.
        """

    @abstractmethod
    def collate(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch for ``model(**batch)``, on the device: ``input_ids``, ``labels`` and ``attention_mask`` (B, T), the
        images, padded on the right. T may be longer than what `encode` gave, where the processor makes room for images.
        """

    @abstractmethod
    def answer(self, turns: Sequence[Turn], image: Image, max_new_tokens: int) -> tuple[str, bool]:
        """The model's greedy answer to the last turn's question, the earlier turns being answered.

        Returns:
            the text, and whether it was cut off at ``max_new_tokens``.
        """

    @abstractmethod
    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        """What the vision tower makes of the batch's images, before any projector, averaged over its positions.

        Returns:
            (B, d_vision).
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text, without special tokens: Llama's put a space in front of everything once one is there."""


class ProbeHost(ABC):
    """A model family. Subclass it, fill in the class attributes, and decorate it with `register_host`."""

    #: Set by `register_host`.
    name: ClassVar[str] = ""
    #: Values of ``architectures`` and of ``model_type`` in config.json that this host loads.
    architectures: ClassVar[tuple[str, ...]] = ()
    model_types: ClassVar[tuple[str, ...]] = ()

    def claims(self, config: dict[str, Any]) -> bool:
        """Whether the checkpoint is one of this family's."""
        named = config.get("architectures") or []
        return any(name in self.architectures for name in named) or config.get("model_type") in self.model_types

    def known(self) -> list[str]:
        """What it claims, for messages."""
        return [*self.architectures, *self.model_types]

    def missing(self, config: dict[str, Any]) -> str | None:
        """Why a checkpoint that it claims cannot be loaded in this environment; None when it can.

        Several repositories save checkpoints that look alike: the one whose code is here loads them. Imports nothing.
        """
        return None

    @abstractmethod
    def load(self, checkpoint: Path, config: dict[str, Any], options: LoadOptions) -> Subject:
        """Load a checkpoint folder.

        Raises:
            ProbeError: it cannot be loaded as it is; the message says what is missing.
        """


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


def load_subject(checkpoint: Path, options: LoadOptions) -> tuple[str, Subject]:
    """Load a checkpoint with the host that knows its config.json.

    Returns:
        the host's name, and the loaded checkpoint.

    Raises:
        ProbeError: no checkpoint is there, or the code of its family is not (says what to install), or that of several.
        UnsupportedModelError: no host knows it (lists the known ones).
    """
    path = checkpoint / CONFIG_FILE
    if not path.is_file():
        raise ProbeError(
            f"{checkpoint} holds no {CONFIG_FILE}; a checkpoint folder was expected, as a training run saves it. (A "
            "model on a hub has to be downloaded first.)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ProbeError(f"{path} is not JSON ({error}). Is the download complete?") from error
    host = choose_host(checkpoint, config)
    return host.name, host.load(checkpoint, config, options)


def choose_host(checkpoint: Path, config: dict[str, Any]) -> ProbeHost:
    """The host that loads a checkpoint with this config.json: the one that knows it and whose code is here.

    Raises:
        ProbeError: the code of its family is not here (says what to install), or that of several is.
        UnsupportedModelError: no host knows it (lists the known ones).
    """
    hosts = [cls() for cls in HOSTS]
    found = ", ".join(config.get("architectures") or []) or f"model_type {config.get('model_type')!r}"
    claiming = [(host, host.missing(config)) for host in hosts if host.claims(config)]
    if not claiming:
        known = "; ".join(f"{host.name} ({', '.join(host.known())})" for host in hosts)
        raise UnsupportedModelError(
            f"the probe does not know how to load {found} ({checkpoint}). Known: {known}. Another family needs a probe "
            "host (register_host in llava_vista.tools.probe.hosts)."
        )
    ready = [host for host, missing in claiming if missing is None]
    if not ready:
        reasons = "; ".join(f"{host.name}: {missing}" for host, missing in claiming)
        raise ProbeError(
            f"{checkpoint} ({found}) needs the code of the repository that trained it, which is not here. {reasons}. "
            "Install it, or put its checkout on PYTHONPATH, in the environment that trains it."
        )
    if len(ready) > 1:
        raise ProbeError(
            f"{checkpoint} ({found}) could be of {' or '.join(host.name for host in ready)}, and the code of each is "
            "importable here. Leave only the one that trained it on PYTHONPATH."
        )
    return ready[0]
