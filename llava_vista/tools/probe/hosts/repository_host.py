"""A family whose code is a repository: recognised by its files, imported when one of its checkpoints is loaded.

Its ``input_ids`` hold one placeholder for each image, which the model itself expands.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ....errors import ProbeError
from ...kit.host_source import package_folders
from ..conversation_samples import Turn
from .probe_host import LoadOptions, ProbeHost

_IGNORE = -100


class RepositoryHost(ProbeHost):
    """Recognition, padding and own answers, from what a family does with words and pictures."""

    #: Where the code comes from, for messages, and its top-level package.
    repository: ClassVar[str]
    package: ClassVar[str]
    #: Files below the package that it has, and that only others with the same package name have.
    holds: ClassVar[tuple[str, ...]] = ()
    lacks: ClassVar[tuple[str, ...]] = ()

    options: LoadOptions

    @classmethod
    def missing(cls, config: dict[str, Any]) -> str | None:
        folders = package_folders(cls.package)
        if not folders:
            return f"the package `{cls.package}` of {cls.repository} is not importable"
        where = f"the package `{cls.package}` in {', '.join(map(str, folders))}"
        for names, wanted in ((cls.needed(config), True), (cls.lacks, False)):
            for name in names:
                if any((folder / name).is_file() for folder in folders) != wanted:
                    return f"{where} has {'no ' if wanted else ''}{name}, so it is not that of {cls.repository}"
        return None

    @classmethod
    def needed(cls, config: dict[str, Any]) -> tuple[str, ...]:
        """Return the files below the package that a checkpoint needs."""
        return cls.holds

    @classmethod
    def module(cls, name: str) -> Any:
        """Import a module below the host's package, or raise ProbeError."""
        try:
            return importlib.import_module(f"{cls.package}.{name}")
        # what a host raises under another version of transformers or of Python than its own
        except (ImportError, AttributeError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise ProbeError(
                f"{cls.package}.{name} of {cls.repository} cannot be imported here "
                f"({type(error).__name__}: {error}). Probe in the environment in which the checkpoint was trained."
            ) from error

    def choose_template(self, template: str | None, known: Sequence[str]) -> str:
        """Return the template and note it, or raise ProbeError if the repository has no such template."""
        if template is None or template not in known:
            raise ProbeError(f"{self.repository} has no template {template!r}; it has {', '.join(sorted(known))}.")
        self.notes = {"template": template}
        return template

    @abstractmethod
    def ask(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        """As `encode`, but ``input_ids`` (T,) end where the last turn's answer begins, and there are no labels."""

    @abstractmethod
    def pictures(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the model's arguments for the images of what `encode` or `ask` returned, on the device."""

    @abstractmethod
    def separators(self) -> list[str]:
        """Return what the template writes behind an answer (or a question)."""

    def generate(self, ids: Tensor, pictures: dict[str, Any], **options: Any) -> Tensor:
        """Return the new ids (N,) that the model writes after ``ids`` (1, T)."""
        output: Tensor = self.model.generate(ids, **pictures, **options)[0]
        return output

    @staticmethod
    def own_copy(batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with copies of ids and labels: merge methods of Bunny and CAL write into them."""
        return {**batch, "input_ids": batch["input_ids"].clone(), "labels": batch["labels"].clone()}

    def run(self, batch: dict[str, Any]) -> Any:
        return self.model(**self.own_copy(batch), return_dict=True)  # MoE-LLaVA saves that it returns tuples

    def collate(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        lengths = torch.tensor([len(item["input_ids"]) for item in encoded])
        ids = pad_sequence([item["input_ids"] for item in encoded], True, self.tokenizer.pad_token_id or 0)
        labels = pad_sequence([item["labels"] for item in encoded], True, _IGNORE)
        labels[:, 0] = _IGNORE  # nothing predicts the first token, even where training labels it (LLaVA-NeXT)
        batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.arange(ids.shape[1]) < lengths[:, None]}
        limit, device = self.tokenizer.model_max_length, self.options.device
        return {**{name: value[:, :limit].to(device) for name, value in batch.items()}, **self.pictures(encoded)}

    def answer(self, turns: Sequence[Turn], image: Image, max_new_tokens: int) -> tuple[str, bool]:
        asked, ends = self.ask(turns, image), self.end_ids()
        ids = asked["input_ids"][None].to(self.options.device)
        with torch.inference_mode():
            output = self.generate(
                ids,
                self.pictures([asked]),
                attention_mask=torch.ones_like(ids, dtype=torch.bool),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id or 0,
                eos_token_id=ends,
                use_cache=True,
            )
        text: str = self.tokenizer.decode(output, skip_special_tokens=True)
        for separator in self.separators():
            if separator.strip("\n") == "" and separator in text.strip(" "):  # stage 1: a line is an answer
                return text.strip(" ").partition(separator)[0].strip(), False
        return text.strip(), len(output) > 0 and int(output[-1]) not in ends

    def end_ids(self) -> list[int]:
        """Return the tokens that end an answer: the tokenizer's, the model's, and one-token separators."""
        own = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        known = self.tokenizer.get_vocab()
        separators = [known.get(text.strip()) for text in self.separators()]
        ends = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own]), *separators}
        return sorted(end for end in ends if end is not None)
