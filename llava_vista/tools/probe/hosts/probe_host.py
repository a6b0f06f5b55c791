"""The seam between the probe and a model family: load a checkpoint, turn image and words into a batch.

What a family does with images inside the model is in its adapter (`llava_vista.adapters`), not here.
"""

from __future__ import annotations

import importlib
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
from ...kit.host_source import package_folders
from ..conversation_samples import Turn

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class LoadOptions:
    """How to load.

    Attributes:
        base: the language model that a projector or LoRA checkpoint belongs to.
        template: conversation template of the host; its default when None.
        device, dtype: where and in what precision to compute.
    """

    base: Path | None
    template: str | None
    device: torch.device
    dtype: torch.dtype


class LoadedCheckpoint(ABC):
    """A checkpoint in memory.

    Attributes:
        model: in eval mode, with eager attention; `llava_vista.attach` must know it.
        tokenizer: of the checkpoint.
        notes: how it was loaded, by name; written to the JSON.
    """

    model: nn.Module
    tokenizer: Any
    notes: dict[str, str]

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
        """Return a batch for ``model(**batch)`` on the device, padded on the right.

        It has ``input_ids``, ``labels`` and ``attention_mask`` (B, T), and the images. T may be longer than what
        `encode` returned, where a processor makes room for images.
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


class ProbeHost(ABC):
    """A model family. Subclass it, fill in the class attributes, and decorate it with `register_host`."""

    #: Set by `register_host`.
    name: ClassVar[str] = ""
    #: Values of ``architectures`` and of ``model_type`` in config.json that this host loads.
    architectures: ClassVar[tuple[str, ...]] = ()
    model_types: ClassVar[tuple[str, ...]] = ()

    def known(self) -> list[str]:
        """Return the names in config.json that it loads."""
        return [*self.architectures, *self.model_types]

    def claims(self, config: dict[str, Any]) -> bool:
        """Return whether the checkpoint is one of this family's."""
        named = [*(config.get("architectures") or []), config.get("model_type")]
        return not set(self.known()).isdisjoint(named)

    def missing(self, config: dict[str, Any]) -> str | None:
        """Return why a checkpoint that it claims cannot be loaded in this environment; None when it can.

        Several repositories save checkpoints that look alike: the one whose code is here loads them. Imports nothing.
        """
        return None

    @abstractmethod
    def load(self, checkpoint: Path, config: dict[str, Any], options: LoadOptions) -> LoadedCheckpoint:
        """Load a checkpoint folder.

        Raises:
            ProbeError: it cannot be loaded as it is; the message says what is missing.
        """


class RepositoryHost(ProbeHost):
    """A family whose code is a repository: recognised by its files, imported when a checkpoint is loaded."""

    #: Where the code comes from, for messages, and its top-level package.
    repository: ClassVar[str]
    package: ClassVar[str]
    #: Files below the package that it has, and that only others with the same package name have.
    holds: ClassVar[tuple[str, ...]] = ()
    lacks: ClassVar[tuple[str, ...]] = ()

    def missing(self, config: dict[str, Any]) -> str | None:
        folders = package_folders(self.package)
        if not folders:
            return f"the package `{self.package}` of {self.repository} is not importable"
        where = f"the package `{self.package}` in {', '.join(map(str, folders))}"
        for name, wanted in [*((name, True) for name in self.needed(config)), *((name, False) for name in self.lacks)]:
            if any((folder / name).is_file() for folder in folders) != wanted:
                return f"{where} has {'no ' if wanted else ''}{name}, so it is not that of {self.repository}"
        return None

    def needed(self, config: dict[str, Any]) -> tuple[str, ...]:
        """Return the files below the package that a checkpoint needs."""
        return self.holds

    def module(self, name: str) -> Any:
        """Import a module below the host's package.

        Raises:
            ProbeError: it cannot be imported in this environment.
        """
        try:
            return importlib.import_module(f"{self.package}.{name}")
        # what a host raises under another version of transformers or of Python than its own
        except (ImportError, AttributeError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise ProbeError(
                f"{self.package}.{name} of {self.repository} cannot be imported here "
                f"({type(error).__name__}: {error}). Probe in the environment in which the checkpoint was trained."
            ) from error

    def check_template(self, template: str | None, known: Sequence[str]) -> str:
        """Return the template if the repository has it, else raise ProbeError."""
        if template is None or template not in known:
            raise ProbeError(f"{self.repository} has no template {template!r}; it has {', '.join(sorted(known))}.")
        return template


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


def load_checkpoint(folder: Path, options: LoadOptions) -> tuple[str, LoadedCheckpoint]:
    """Load a checkpoint with the host that knows its config.json; also return the host's name.

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
    host = choose_host(folder, config)
    return host.name, host.load(folder, config, options)


def choose_host(folder: Path, config: dict[str, Any]) -> ProbeHost:
    """Return the host that knows this config.json and whose code is importable here.

    Raises:
        ProbeError: the code of its family is not importable (names what to install), or that of several hosts is.
        UnsupportedModelError: no host knows it (lists the known names).
    """
    hosts = [cls() for cls in HOSTS]
    found = ", ".join(config.get("architectures") or []) or f"model_type {config.get('model_type')!r}"
    claiming = [(host, host.missing(config)) for host in hosts if host.claims(config)]
    if not claiming:
        known = "; ".join(f"{host.name} ({', '.join(host.known())})" for host in hosts)
        raise UnsupportedModelError(
            f"the probe does not know how to load {found} ({folder}). Another family needs a probe host (register_host "
            f"in llava_vista.tools.probe.hosts). Known: {known}."
        )
    ready = [host for host, missing in claiming if missing is None]
    if not ready:
        reasons = "; ".join(f"{host.name}: {missing}" for host, missing in claiming)
        raise ProbeError(
            f"{folder} ({found}) needs the code of the repository that trained it, which is not importable: {reasons}. "
            "Install it, or put its checkout on PYTHONPATH, in the environment that trains it."
        )
    if len(ready) > 1:
        raise ProbeError(
            f"{folder} ({found}) could be of {' or '.join(host.name for host in ready)}, and the code of each is "
            "importable. Leave only the one that trained it on PYTHONPATH."
        )
    return ready[0]
