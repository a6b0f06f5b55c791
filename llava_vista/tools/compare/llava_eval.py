"""Outputs of LLaVA's own evaluation scripts (``scripts/v1_5/eval/*.sh``).

ScienceQA writes files: ``*_result.json`` (``acc`` in percent, ``count``) and beside it ``*_output.jsonl``, which is one
JSON object with the questions answered rightly and wrongly. POPE, TextVQA, MME and GQA only print, so their numbers are
looked for in every log of the directory (``*.log``, ``*.txt``, ``*.out``); MME's and GQA's printing is their official
tools'. TextVQA is run by these scripts with OCR tokens in the prompt, which is another task than lmms-eval's default.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .files import BadFile, read_lines, read_object
from .scores import LLAVA_SCRIPTS, EvalRun, Samples, Score, ScoreKey

_LOGS = (".log", ".txt", ".out")
_LARGEST_LOG = 50_000_000  # bytes; a log with progress bars of all tasks is far below
_NUMBER = r"([-+]?[\d.]+(?:[eE][-+]?\d+)?)"
_POPE_BLOCK = re.compile(r"Category: (\w+), # samples: (\d+)(.*?)(?=Category: |\Z)", re.DOTALL)
_POPE_F1 = re.compile(rf"F1 score: {_NUMBER}")
_POPE_ACCURACY = re.compile(rf"^Accuracy: {_NUMBER}$", re.MULTILINE)
_TEXTVQA = re.compile(rf"^(?P<answers>.*)\n+Samples: (\d+)\nAccuracy: {_NUMBER}%", re.MULTILINE)
_MME = re.compile(rf"=+ (Perception|Cognition) =+\s+total score: {_NUMBER}")
_GQA = re.compile(rf"Binary: {_NUMBER}%\s+Open: {_NUMBER}%\s+Accuracy: {_NUMBER}%")
_SCIENCEQA = re.compile(rf"Total: (\d+), Correct: \d+, Accuracy: {_NUMBER}%, IMG-Accuracy: {_NUMBER}%")


class _Found(NamedTuple):
    task: str
    metric: str
    value: float
    questions: int | None = None
    percent: bool = True
    main: bool = True


def _in_text(text: str, folder: Path) -> Iterator[_Found]:
    """Every number that a log holds."""
    f1 = []
    for category, count, block in _POPE_BLOCK.findall(text):
        for metric, pattern in (("F1", _POPE_F1), ("accuracy", _POPE_ACCURACY)):
            match = pattern.search(block)
            if match:
                yield _Found(f"POPE {category}", metric, 100 * float(match[1]), int(count), main=False)
                if metric == "F1":
                    f1.append(100 * float(match[1]))
    if len(f1) == 3:  # what LLaVA's paper reports
        yield _Found("POPE", "mean F1", sum(f1) / 3)
    for match in _TEXTVQA.finditer(text):
        yield _Found(_textvqa_task(folder, match["answers"].strip()), "accuracy", float(match[3]), int(match[2]))
    for part, value in _MME.findall(text):
        yield _Found(f"MME {part.lower()}", "total score", float(value), percent=False)
    for _, _, accuracy in _GQA.findall(text):
        yield _Found("GQA testdev_balanced", "accuracy", float(accuracy))
    for count, accuracy, images in _SCIENCEQA.findall(text):
        yield _Found("ScienceQA", "accuracy", float(accuracy), int(count))
        yield _Found("ScienceQA", "IMG-accuracy", float(images), main=False)


def _textvqa_task(folder: Path, experiment: str) -> str:
    """With or without OCR tokens: by the prompts of the answers file, if it is there; the scripts put them in."""
    for path in folder.rglob(f"{experiment}.jsonl") if re.fullmatch(r"[\w.\-]+", experiment) else ():
        try:
            prompt = str(next(read_lines(path), {}).get("prompt", ""))
        except BadFile:
            continue
        if prompt:
            return f"TextVQA {'with' if 'OCR token' in prompt else 'without'} OCR tokens"
    return "TextVQA with OCR tokens"


def read_llava_eval(folder: Path) -> EvalRun | None:
    """Read a directory of results and logs, with its sub-directories.

    Returns:
        None when nothing of LLaVA's scripts is found.
    """
    run = EvalRun(folder, folder.name)
    found: dict[ScoreKey, tuple[Path, Score]] = {}
    unclear: set[ScoreKey] = set()

    def add(path: Path, item: _Found, samples: Samples | None = None) -> None:
        key = ScoreKey(LLAVA_SCRIPTS, item.task, item.metric)
        score = Score(item.value, True, {}, item.questions, samples, item.main, item.percent)
        known = found.get(key)
        # A log rounds what a file holds exactly, so a little difference is none.
        if known is not None and abs(known[1].value - item.value) > 0.006:
            unclear.add(key)
            run.problems.append(
                f"{folder} has two results for {item.task} ({item.metric}): {known[1].value:g} in {known[0].name} and "
                f"{item.value:g} in {path.name}. Keep one."
            )
        elif known is None or known[1].samples is None:
            found[key] = (path, score)

    for path in sorted(folder.rglob("*_result.json")):
        try:
            content = read_object(path)
        except BadFile as error:
            run.problems.append(str(error))
            continue
        if isinstance(content.get("acc"), (int, float)) and "results" in content:
            samples = _scienceqa_samples(run, path)
            add(path, _Found("ScienceQA", "accuracy", float(content["acc"]), content.get("count")), samples)
    for path in sorted(folder.rglob("*")):
        if path.suffix in _LOGS and path.is_file() and path.stat().st_size < _LARGEST_LOG:
            for item in _in_text(path.read_text(encoding="utf-8", errors="replace"), folder):
                add(path, item)
    run.scores = {key: score for key, (_, score) in found.items() if key not in unclear}
    return run if run.scores or run.problems else None


def _scienceqa_samples(run: EvalRun, result: Path) -> Samples | None:
    path = result.with_name(result.name.replace("_result.json", "_output.jsonl"))
    if not path.is_file():
        return None
    try:
        content: Mapping[str, Any] = read_object(path)  # its name says lines, but it is one object
        items = [(item, float(right)) for right, name in ((1, "correct"), (0, "incorrect")) for item in content[name]]
        return Samples(
            [str(item["question_id"]) for item, _ in items],
            [hashlib.sha256(str(item["question"]).encode("utf-8")).hexdigest() for item, _ in items],
            [str(item["ground_truth"]) for item, _ in items],
            {"accuracy": [right for _, right in items]},
        )
    except (BadFile, KeyError, TypeError) as error:
        run.problems.append(f"{path} is not what LLaVA's eval_science_qa.py writes ({error}).")
        return None
