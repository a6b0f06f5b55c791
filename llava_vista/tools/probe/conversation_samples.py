"""The samples that are probed: one image and one conversation each.

Sources are LLaVA's training format (``image`` and ``conversations``), LLaVA's question files (``image`` and ``text``,
with or without ``answer``), both as JSON or JSON lines, and a folder of images.

Words that only the image can tell may be marked in the answer's turn (or beside ``answer``): ``"visual": ["red", "left
of"]``. Every whole-word occurrence of such a phrase in that answer counts, in any case. LLaVA's training ignores it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...errors import ProbeError
from ..kit.json_files import BadFile, read_lines

IMAGE_MARK = "<image>"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
FOLDER_QUESTION = "Describe the picture in detail."


@dataclass(frozen=True)
class Turn:
    """A question and its answer. The question of the turn that shows the image contains `IMAGE_MARK`.

    Attributes:
        answer: None where the model is to write its own.
        visual: the phrases of the answer that only the image can tell.
        cut: the answer was cut off, so its end is not the model's.
    """

    question: str
    answer: str | None
    visual: tuple[str, ...] = ()
    cut: bool = False


@dataclass(frozen=True)
class Sample:
    """One image and the conversation about it."""

    name: str
    image: Path
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Samples:
    """The chosen samples, how many records were passed over for which reason, and whether the model has to answer."""

    chosen: tuple[Sample, ...]
    passed_over: dict[str, int]
    own_answers: bool


def open_image(path: Path) -> Image.Image:
    """Return the image as RGB, or raise ProbeError if the file is none."""
    try:
        with Image.open(path) as image:
            picture: Image.Image = image.convert("RGB")
            return picture
    except OSError as error:  # UnidentifiedImageError is one
        raise ProbeError(f"{path} cannot be read as an image: {error}.") from error


def llava_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return the turns in LLaVA's form, an answer that is not known as an empty one."""
    pairs = [(("human", turn.question), ("gpt", turn.answer or "")) for turn in turns]
    return [{"from": speaker, "value": value} for pair in pairs for speaker, value in pair]


def load_samples(data: Path | None, images: Path | None, limit: int, seed: int) -> Samples:
    """Read the data and choose at most ``limit`` samples, at random by ``seed``.

    Args:
        data: a JSON or JSON lines file; None for every image in ``images``.
        images: folder of the images; the data file's own when None.

    Raises:
        ProbeError: a file is missing or of another format, no record has an image or an answer, or an image is missing.
    """
    if images is not None and not images.is_dir():
        raise ProbeError(f"--images {images} is not a folder.")
    passed: Counter[str] = Counter()
    if data is None:
        if images is None:
            raise ProbeError("there is nothing to probe: give --data FILE (with --images DIR), or --images DIR alone.")
        found = _samples_of_folder(images)
    else:
        records = _read_records(data)
        found = list(_samples_of_records(records, images or data.parent, data, passed))
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
    return Samples(tuple(found), dict(passed), own_answers=not answered)


def _samples_of_folder(images: Path) -> list[Sample]:
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ProbeError(f"{images} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    turns = (Turn(f"{IMAGE_MARK}\n{FOLDER_QUESTION}", None),)
    return [Sample(str(path.relative_to(images)), path, turns) for path in paths]


def _read_records(path: Path) -> list[Any]:
    if not path.is_file():
        raise ProbeError(f"--data {path} is not a file. For a folder of images give --images alone.")
    try:
        if path.suffix == ".jsonl":
            return list(read_lines(path))
        records = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, BadFile) as error:
        raise ProbeError(f"{path} is not JSON: {error}.") from error
    if not isinstance(records, list):
        raise ProbeError(f"{path}: a list of records in LLaVA's format was expected, found {type(records).__name__}.")
    return records


def _samples_of_records(records: Sequence[Any], folder: Path, source: Path, passed: Counter[str]) -> Iterator[Sample]:
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
            yield Sample(name, folder / image, turns)
        else:
            passed["with an empty answer or question"] += 1


def _turns_of(record: dict[str, Any], where: str) -> tuple[Turn, ...]:
    """Return the record's turns; none if an answer is empty.

    Raises:
        ProbeError: the record is of another format.
    """
    if "conversations" in record:
        turns = _turns_of_conversation(record["conversations"], where)
    elif isinstance(record.get("text"), str):
        turns = [Turn(record["text"], record.get("answer"), _visual_phrases(record, where))]
    else:
        raise ProbeError(f"{where} has neither `conversations` nor `text`; LLaVA's format was expected.")
    if any(turn.answer is not None and not str(turn.answer).strip() for turn in turns):
        return ()
    if turns and not any(IMAGE_MARK in turn.question for turn in turns):
        turns[0] = Turn(f"{IMAGE_MARK}\n{turns[0].question}", turns[0].answer, turns[0].visual)
    return tuple(turns)


def _turns_of_conversation(conversation: Any, where: str) -> list[Turn]:
    try:
        parts = [(str(part["from"]), str(part["value"]), _visual_phrases(part, where)) for part in conversation]
    except (KeyError, TypeError) as error:
        raise ProbeError(f"{where}: every turn needs `from` and `value` ({error!r}).") from error
    if parts and parts[0][0] == "gpt":
        parts = parts[1:]  # as LLaVA does
    speakers = [speaker for speaker, _, _ in parts]
    if speakers != (["human", "gpt"] * len(parts))[: len(parts)]:
        raise ProbeError(f"{where}: turns must alternate between human and gpt, found {', '.join(speakers)}.")
    questions, answers = parts[::2], parts[1::2]
    if not answers:  # a question alone: the model answers
        return [Turn(question, None) for _, question, _ in questions]
    pairs = zip(questions, answers, strict=False)  # a last question without an answer has nothing to be scored on
    return [Turn(question, answer, visual) for (_, question, _), (_, answer, visual) in pairs]


def _visual_phrases(part: dict[str, Any], where: str) -> tuple[str, ...]:
    visual = part.get("visual", ())
    if not isinstance(visual, (list, tuple)) or not all(isinstance(phrase, str) for phrase in visual):
        raise ProbeError(f"{where}: `visual` must be a list of words or phrases, found {visual!r}.")
    return tuple(visual)
