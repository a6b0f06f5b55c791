"""The samples that a probe looks at: one image, one conversation each.

Read are LLaVA's training format (``image`` and ``conversations``), LLaVA's question files (``image`` and ``text``, an
``answer`` if there is one), both as JSON or JSON lines, and a folder of images.

Words that only the image can tell may be marked where an answer stands, as ``"visual": ["red", "left of"]`` in a gpt
turn (or beside ``answer``). Every whole-word occurrence of such a phrase in that answer, whatever its case, counts.
LLaVA's training ignores the key.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ProbeError

IMAGE_MARK = "<image>"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
FOLDER_QUESTION = "Describe the picture in detail."


@dataclass(frozen=True)
class Turn:
    """A question and its answer; ``answer`` is None where the model is to write its own.

    The question of the turn that shows the image has `IMAGE_MARK` in it.
    """

    question: str
    answer: str | None
    visual: tuple[str, ...] = ()
    #: the answer was cut off: that it ends here is not the model's word
    cut: bool = False


@dataclass(frozen=True)
class Sample:
    """One image and what is said about it."""

    name: str
    image: Path
    turns: tuple[Turn, ...]

    @property
    def answered(self) -> bool:
        return all(turn.answer is not None for turn in self.turns)


@dataclass(frozen=True)
class Samples:
    """What was chosen, and how many records were passed over for which reason."""

    chosen: tuple[Sample, ...]
    passed_over: dict[str, int] = field(default_factory=dict)
    own_answers: bool = False


def load_samples(data: Path | None, images: Path | None, limit: int, seed: int) -> Samples:
    """Read the data and choose at most ``limit`` samples, at random by ``seed``.

    Args:
        data: a JSON or JSON lines file; None to take every image in ``images``.
        images: folder of the images; the data file's own folder when None.
        limit: how many samples at most.
        seed: of the choice.

    Raises:
        ProbeError: nothing to probe: a file is missing or of another format, no record has an image or an answer, or an
            image file is not there (named).
    """
    passed: Counter[str] = Counter()
    if data is None:
        if images is None:
            raise ProbeError("nothing to look at: give --data FILE (with --images DIR), or --images DIR alone.")
        found = list(_from_folder(images))
    else:
        records = _read(data)
        folder = _folder(images) if images is not None else data.parent
        found = list(_from_records(records, folder, data, passed))
        if not found:
            reasons = "; ".join(f"{count} {reason}" for reason, count in passed.items())
            raise ProbeError(f"{data}: none of {len(records)} records can be probed ({reasons or 'it is empty'}).")
    own = not any(sample.answered for sample in found)
    if not own and not all(sample.answered for sample in found):
        passed["without an answer, while others have one"] += sum(not sample.answered for sample in found)
        found = [sample for sample in found if sample.answered]
    if len(found) > limit:
        found = random.Random(seed).sample(found, limit)
    missing = [sample for sample in found if not sample.image.is_file()]
    if missing:
        raise ProbeError(
            f"{len(missing)} of {len(found)} images are not there, the first is {missing[0].image} (record "
            f"{missing[0].name}). --images says in which folder the data's image names are looked up."
        )
    return Samples(tuple(found), dict(passed), own)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ProbeError(f"--images {path} is not a folder.")
    return path


def _from_folder(images: Path) -> Iterable[Sample]:
    paths = sorted(path for path in _folder(images).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ProbeError(f"{images} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    for path in paths:
        question = f"{IMAGE_MARK}\n{FOLDER_QUESTION}"
        yield Sample(str(path.relative_to(images)), path, (Turn(question, None),))


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise ProbeError(f"--data {path} is not a file. For a folder of images give --images alone.")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProbeError(f"{path} is not JSON{' lines' * (path.suffix == '.jsonl')}: {error}.") from error
    if not isinstance(records, list):
        raise ProbeError(f"{path}: a list of records in LLaVA's format was expected, found {type(records).__name__}.")
    return records


def _from_records(records: Sequence[Any], folder: Path, source: Path, passed: Counter[str]) -> Iterable[Sample]:
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
        else:
            turns = _turns(record, f"{source}: record {name}")
            if not turns:
                passed["with an empty answer or question"] += 1
            else:
                yield Sample(name, folder / image, turns)


def _turns(record: dict[str, Any], where: str) -> tuple[Turn, ...]:
    """The record's exchanges; none if an answer is empty.

    Raises:
        ProbeError: the record is of another format.
    """
    if "conversations" in record:
        turns = _exchanges(record["conversations"], where)
    elif isinstance(record.get("text"), str):
        turns = [Turn(record["text"], record.get("answer"), _visual(record, where))]
    else:
        raise ProbeError(f"{where} has neither `conversations` nor `text`; LLaVA's format was expected.")
    if any(turn.answer is not None and not str(turn.answer).strip() for turn in turns):
        return ()
    if turns and not any(IMAGE_MARK in turn.question for turn in turns):
        turns[0] = Turn(f"{IMAGE_MARK}\n{turns[0].question}", turns[0].answer, turns[0].visual)
    return tuple(turns)


def _exchanges(conversations: Any, where: str) -> list[Turn]:
    try:
        parts = [(str(part["from"]), str(part["value"]), _visual(part, where)) for part in conversations]
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
    # a last question without an answer has nothing to be scored on
    return [
        Turn(question, answer, visual)
        for (_, question, _), (_, answer, visual) in zip(questions, answers, strict=False)
    ]


def _visual(part: dict[str, Any], where: str) -> tuple[str, ...]:
    visual = part.get("visual", ())
    if not isinstance(visual, (list, tuple)) or not all(isinstance(phrase, str) for phrase in visual):
        raise ProbeError(f"{where}: `visual` must be a list of words or phrases, found {visual!r}.")
    return tuple(visual)
