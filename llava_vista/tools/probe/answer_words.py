"""Which tokens of an answer are words marked as visual, and which the model did not write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from torch import Tensor

from .conversation_samples import Turn

Decode = Callable[[Sequence[int]], str]


def visual_marks(labels: Tensor, turns: Sequence[Turn], decode: Decode) -> list[bool]:
    """Return, for each supervised token of labels (T,), whether it belongs to a word that its turn marks.

    Each unbroken run of labels is the answer of a turn; there are fewer where the sequence was truncated.
    """
    runs = [list(run) for is_answer, run in groupby(labels.tolist(), lambda label: label >= 0) if is_answer]
    marks = [visual_tokens(ids, turn.visual, decode) for ids, turn in zip(runs, turns, strict=False)]
    return [mark for run in marks for mark in run]


def visual_tokens(ids: Sequence[int], phrases: Sequence[str], decode: Decode) -> list[bool]:
    """Return which tokens of an answer belong to an occurrence of one of the phrases (whole words, any case).

    A token's place in the text is where the decoded text grows by it, so the tokenizer needs no offsets. (The bytes of
    one character all decode to a replacement character until the last of them.)
    """
    if not phrases:
        return [False] * len(ids)
    text = decode(ids)
    ends = [_common_length(decode(ids[: count + 1]), text) for count in range(len(ids))]
    spans = [
        match.span() for phrase in phrases for match in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.I)
    ]
    return [
        any(start < last and end > first and text[max(start, first) : min(end, last)].strip() for first, last in spans)
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _common_length(left: str, right: str) -> int:
    """Return how many characters two texts begin with in common."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(left), len(right)))


def without_end(labels: Tensor, decode: Decode) -> Tensor:
    """Return labels (T,) of an answer that was cut off, without its end: the model did not write that it ends there.

    The end is the last label, and the labels before it that add no text: a chat turn may end with two tokens.
    """
    at = (labels >= 0).nonzero().squeeze(1)
    ids = labels[at].tolist()
    keep = max(0, len(ids) - 1)
    words = decode(ids[:keep]).rstrip()
    while keep > 0 and decode(ids[: keep - 1]).rstrip() == words:
        keep -= 1
    return labels.index_fill(0, at[keep:], -100)  # torch's own value for labels that do not count
