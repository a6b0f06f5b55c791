"""LLaVA's two templates as token ids, as ``llava.train`` makes them (a test compares), and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from world import Record

from llava_vista.tools.demo.scenes import COLORS
from llava_vista.tools.demo.tiny_checkpoint import SYSTEM_PROMPT

IGNORE = -100
#: LLaVA's own mark for an image; every model here has it replaced by an id of its own.
IMAGE = -200


class Row(NamedTuple):
    """One sample: ids with one IMAGE, labels with IGNORE where nothing is learned, and which picture it is about."""

    ids: list[int]
    labels: list[int]
    picture: str


class Encoded(Sequence[Row]):
    """Records as rows, encoded when asked for: a run that has looked leaves half of them unseen."""

    def __init__(self, records: Sequence[Record], encode: Callable[[Record], Row]) -> None:
        self.records, self.encode = records, encode

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.encode(self.records[index])


class Encoder:
    """Text to ids with the demo's SentencePiece tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._text = lru_cache(maxsize=256)(self._encode)  # a row's prefixes share the text before the image
        self.color_ids = [self._word(word) for word in COLORS]

    def _word(self, word: str) -> int:
        ids = self._text(f"in {word}")
        if len(ids) != 2:
            raise ValueError(f"{word!r} is {len(ids) - 1} tokens in this tokenizer; one is needed to score it.")
        return ids[-1]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def plain(self, record: Record) -> Row:
        """Stage 1: BOS, image, caption, line end; the request is left out."""
        answer = self._text(record["conversations"][1]["value"] + "\n")
        ids = [self.tokenizer.bos_token_id, IMAGE, *answer]
        return Row(ids, [IGNORE, IGNORE, *answer], record["image"])

    def v1(self, record: Record) -> Row:
        """Stage 2: Vicuna's conversation; the answers and the end tokens are learned."""
        parts = [part["value"] for part in record["conversations"]]
        text, ends = f"{SYSTEM_PROMPT} ", []
        for question, answer in zip(parts[::2], parts[1::2], strict=True):
            text += f"USER: {question} ASSISTANT:"
            begin = len(self._with_image(text))
            text += f" {answer}</s>"
            ends.append((begin, len(self._with_image(text))))
        ids = self._with_image(text)
        labels = [IGNORE] * len(ids)
        for begin, end in ends:
            labels[begin:end] = ids[begin:end]
        return Row(ids, labels, record["image"])

    def _with_image(self, text: str) -> list[int]:
        before, after = text.split("<image>")
        return [self.tokenizer.bos_token_id, *self._text(before), IMAGE, *self._text(after)]


def pad(rows: Sequence[Row], image_id: int, pad_id: int, copies: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels and attention mask (B, T) of rows, padded on the right, an image as ``copies`` ids."""
    ids, labels = [], []
    for row in rows:
        at = row.ids.index(IMAGE)
        ids.append(torch.tensor([*row.ids[:at], *[image_id] * copies, *row.ids[at + 1 :]]))
        labels.append(torch.tensor([*row.labels[:at], *[IGNORE] * copies, *row.labels[at + 1 :]]))
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad_id),
        pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        mask,
    )
