"""The seam between the probe and a model family: load a checkpoint, turn image and words into a batch.

What a family does with images inside the model is in its adapter (`llava_vista.adapters`), not here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from ..conversation_samples import Turn


class LoadOptions(NamedTuple):
    """How to load."""

    base: Path | None  # the language model that a projector or LoRA checkpoint belongs to
    template: str | None  # conversation template of the host; its default when None
    device: torch.device
    dtype: torch.dtype


class ProbeHost(ABC):
    """A model family. The class is its data sheet; an instance is one loaded checkpoint.

    name: of the family, for messages and records.
    architectures: values of ``architectures`` in config.json that it loads.
    model: in eval mode, with eager attention; `llava_vista.attach` must know it. Its output has the ``loss``.
    notes: how it was loaded, by name; written to the JSON.
    """

    name: ClassVar[str]
    architectures: ClassVar[Sequence[str]] = ()
    model: Any
    tokenizer: Any
    notes: dict[str, str]

    @abstractmethod
    def __init__(self, folder: Path, config: dict[str, Any], options: LoadOptions) -> None:
        """Load a checkpoint folder with this config.json, or raise a ProbeError that says what is missing."""

    @classmethod
    def known(cls) -> Sequence[str]:
        """Return the names of classes in config.json that it loads."""
        return cls.architectures

    @classmethod
    def claims(cls, config: dict[str, Any]) -> bool:
        """Return whether the checkpoint is one of this family's."""
        return not set(cls.known()).isdisjoint(config.get("architectures") or [])

    @classmethod
    def missing(cls, config: dict[str, Any]) -> str | None:
        """Return why a checkpoint that it claims cannot be loaded in this environment; None when it can.

        Several repositories save checkpoints that look alike, so the code that is here is looked at. Imports nothing.
        """
        return None

    @abstractmethod
    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        """Return one conversation for `collate`, with ``labels`` (T,): the id at answer tokens, negative elsewhere."""

    @abstractmethod
    def collate(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the model's arguments on the device, padded on the right: ids, labels, mask (B, T), and the images."""

    @abstractmethod
    def answer(self, turns: Sequence[Turn], image: Image, max_new_tokens: int) -> tuple[str, bool]:
        """Return the greedy answer to the last turn's question, and whether it was cut off at ``max_new_tokens``."""

    @abstractmethod
    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        """Return (B, d_vision): the vision tower's output before any projector, averaged over its positions."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return token ids as text, without special tokens: Llama's would add a space in front of everything."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
