"""The samples that are probed: one image and one conversation each, and which tokens of an answer count for what.

Sources are LLaVA's training format (``image`` and ``conversations``), LLaVA's question files (``image`` and ``text``,
with or without ``answer``), both as JSON or JSON lines, and a folder of images.

Words that only the image can tell may be marked in the answer's turn (or beside ``answer``): ``"visual": ["red", "left
of"]``. Every whole-word occurrence of such a phrase in that answer counts, in any case. LLaVA's training ignores it.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from ...errors import ProbeError
from ..kit.json_files import BadFile, read_lines

IMAGE_MARK = "<image>"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
FOLDER_QUESTION = "Describe the picture in detail."
Decode = Callable[[Sequence[int]], str]


class Turn(NamedTuple):
    """A question and its answer. The question of the turn that shows the image contains `IMAGE_MARK`."""

    question: str
    answer: str | None  # None where the model is to write its own
    visual: tuple[str, ...] = ()  # the phrases of the answer that only the image can tell
    cut: bool = False  # the answer was cut off, so its end is not the model's


class Sample(NamedTuple):
    """One image and the conversation about it."""

    name: str
    image: Path
    turns: tuple[Turn, ...]


class Samples(NamedTuple):
    """The chosen samples, how many records were passed over for which reason, and whether the model has to answer."""

    chosen: tuple[Sample, ...]
    passed_over: Counter[str]
    own_answers: bool


def open_image(path: Path) -> Image.Image:
    """Return the image as RGB, or raise ProbeError if the file is none."""
    try:
        with Image.open(path) as image:
            picture: Image.Image = image.convert("RGB")
            return picture
    except OSError as error:  # UnidentifiedImageError is one
        raise ProbeError(f"{path} cannot be read as an image: {error}.") from error


def load_samples(data: Path | None, images: Path | None, limit: int, seed: int) -> Samples:
    """Read the data and choose at most ``limit`` samples, at random by ``seed``.

    Args:
        data: a JSON or JSON lines file; None for every image in ``images``.
        images: folder of the images; the data file's own when None.
    """
    if images is not None and not images.is_dir():
        raise ProbeError(f"--images {images} is not a folder.")
    source = data or images
    if source is None:
        raise ProbeError("there is nothing to probe: give --data FILE (with --images DIR), or --images DIR alone.")
    records = _records_of_folder(source) if data is None else _read_records(source)
    passed: Counter[str] = Counter()
    found = list(_samples_of(records, images or source.parent, source, passed))
    if not found:
        reasons = "; ".join(f"{count} {reason}" for reason, count in passed.items())
        raise ProbeError(f"{data}: none of {len(records)} records can be probed ({reasons or 'it is empty'}).")
    answered = [sample for sample in found if all(turn.answer is not None for turn in sample.turns)]
    if answered and len(answered) < len(found):
        passed["without an answer, while others have one"] += len(found) - len(answered)
        found = answered
    if len(found) > limit:
        found = random.Random(seed).sample(found, limit)
    missing = [sample for sample in found if not sample.image.is_file()]
    if missing:
        raise ProbeError(
            f"{len(missing)} of {len(found)} images are missing, the first is {missing[0].image} (record "
            f"{missing[0].name}). --images gives the folder in which the data's image names are looked up."
        )
    return Samples(tuple(found), passed, own_answers=not answered)


def _records_of_folder(images: Path) -> list[Any]:
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ProbeError(f"{images} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    names = [str(path.relative_to(images)) for path in paths]
    return [{"id": name, "image": name, "text": FOLDER_QUESTION} for name in names]


def _read_records(path: Path) -> list[Any]:
    if not path.is_file():
        raise ProbeError(f"--data {path} is not a file. For a folder of images give --images alone.")
    try:
        lines = path.suffix == ".jsonl"
        records = list(read_lines(path)) if lines else json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, BadFile) as error:
        raise ProbeError(f"{path} is not JSON: {error}.") from error
    if not isinstance(records, list):
        raise ProbeError(f"{path}: a list of records in LLaVA's format was expected, found {type(records).__name__}.")
    return records


def _samples_of(records: Sequence[Any], folder: Path, source: Path, passed: Counter[str]) -> Iterator[Sample]:
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise ProbeError(f"{source}: record {number} is {type(record).__name__}; an object was expected.")
        name = str(record.get("id", record.get("question_id", number)))
        image = record.get("image")
        if isinstance(image, list) and len(image) == 1:
            image = image[0]
        if not image:
            passed["without an image"] += 1
        elif not isinstance(image, str):
            passed["with several images"] += 1
        elif turns := _turns_of(record, f"{source}: record {name}"):
            yield Sample(name, folder / image, tuple(turns))
        else:
            passed["with an empty answer or question"] += 1


def _turns_of(record: dict[str, Any], where: str) -> list[Turn]:
    """Return the record's turns; none if an answer is empty."""
    parts = record.get("conversations")
    if parts is None and isinstance(record.get("text"), str):
        values = [("human", record["text"]), ("gpt", record.get("answer"))]
        parts = [{**record, "from": speaker, "value": value} for speaker, value in values if value is not None]
    if parts is None:
        raise ProbeError(f"{where} has neither `conversations` nor `text`; LLaVA's format was expected.")
    try:
        said = [(str(part["from"]), str(part["value"]), _visual_phrases(part, where)) for part in parts]
    except (KeyError, TypeError) as error:
        raise ProbeError(f"{where}: every turn needs `from` and `value` ({error!r}).") from error
    said = said[1:] if said and said[0][0] == "gpt" else said  # as LLaVA does
    speakers = [speaker for speaker, _, _ in said]
    if speakers != (["human", "gpt"] * len(said))[: len(said)]:
        raise ProbeError(f"{where}: turns must alternate between human and gpt, found {', '.join(speakers)}.")
    if len(said) == 1:  # a question alone: the model answers
        turns = [Turn(said[0][1], None, said[0][2])]
    else:  # a last question without an answer has nothing to be scored on
        pairs = zip(said[::2], said[1::2], strict=False)
        turns = [Turn(question, answer, visual) for (_, question, _), (_, answer, visual) in pairs]
    if any(turn.answer is not None and not turn.answer.strip() for turn in turns):
        return []
    if turns and not any(IMAGE_MARK in turn.question for turn in turns):
        turns[0] = turns[0]._replace(question=f"{IMAGE_MARK}\n{turns[0].question}")
    return turns


def _visual_phrases(part: dict[str, Any], where: str) -> tuple[str, ...]:
    visual = part.get("visual", ())
    if not isinstance(visual, (list, tuple)) or not all(isinstance(phrase, str) for phrase in visual):
        raise ProbeError(f"{where}: `visual` must be a list of words or phrases, found {visual!r}.")
    return tuple(visual)


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
    # by characters, unlike commonpath
    ends = [len(commonprefix([decode(ids[:count]), text])) for count in range(len(ids) + 1)]  # noqa: RUF071
    patterns = [rf"(?<!\w){re.escape(phrase)}(?!\w)" for phrase in phrases]
    spans = [match.span() for pattern in patterns for match in re.finditer(pattern, text, re.I)]
    return [
        any(start < last and end > first and text[max(start, first) : min(end, last)].strip() for first, last in spans)
        for start, end in pairwise(ends)
    ]


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
