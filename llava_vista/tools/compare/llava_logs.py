"""Outputs of LLaVA's own evaluation scripts (``scripts/v1_5/eval/*.sh``).

ScienceQA writes files: ``*_result.json`` (``acc`` in percent, ``count``) and beside it ``*_output.jsonl``, which is one
JSON object with the questions answered rightly and wrongly. POPE, TextVQA, MME and GQA only print, so their numbers are
searched in every log of the directory (``*.log``, ``*.txt``, ``*.out``); MME's and GQA's printing is their official
tools'. These scripts run TextVQA with OCR tokens in the prompt, which is another task than lmms-eval's default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..kit.evaluation_scores import LLAVA_SCRIPTS, EvaluationRun, Question, Score, ScoreKey
from ..kit.json_files import BadFile, is_finite, read_lines, read_object
from ..kit.lmms_eval import digest
from ..kit.training_folder import recorded_seed

_LOGS = (".log", ".txt", ".out")
_LARGEST_LOG = 50_000_000  # bytes; a log with progress bars of all tasks is far below
#: Logs round what a file holds exactly, so a smaller difference is none.
_ROUNDING = 0.006
_NUMBER = r"([-+]?[\d.]+(?:[eE][-+]?\d+)?)"
_POPE_BLOCK = re.compile(r"Category: (\w+), # samples: (\d+)(.*?)(?=Category: |\Z)", re.DOTALL)
_POPE = (("F1", rf"F1 score: {_NUMBER}"), ("accuracy", rf"^Accuracy: {_NUMBER}$"))
_TEXTVQA = re.compile(rf"^(.*)\n+Samples: (\d+)\nAccuracy: {_NUMBER}%", re.MULTILINE)
_MME = re.compile(rf"=+ (Perception|Cognition) =+\s+total score: {_NUMBER}")
_GQA = re.compile(rf"Binary: {_NUMBER}%\s+Open: {_NUMBER}%\s+Accuracy: {_NUMBER}%")
_SCIENCEQA = re.compile(rf"Total: (\d+), Correct: \d+, Accuracy: {_NUMBER}%, IMG-Accuracy: {_NUMBER}%")


def read_llava_logs(folder: Path) -> EvaluationRun | None:
    """Read a directory of results and logs, with its sub-directories; None when it has nothing of LLaVA's scripts."""
    run = EvaluationRun(LLAVA_SCRIPTS, folder, folder.name, recorded_seed(folder))
    found = [(path, *score) for path in sorted(folder.rglob("*_result.json")) for score in _scienceqa(run, path)]
    for path in sorted(folder.rglob("*")):
        if path.suffix in _LOGS and path.is_file() and path.stat().st_size < _LARGEST_LOG:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [(path, *score) for score in _printed(text, folder)]
    sources: dict[ScoreKey, Path] = {}
    contradicted: set[ScoreKey] = set()
    for path, key, score in found:
        known = run.scores.get(key)
        if known is not None and abs(known.value - score.value) > _ROUNDING:
            contradicted.add(key)
            run.problems.append(
                f"{folder} has two results for {key.task} ({key.metric}): {known.value:g} in {sources[key].name} and "
                f"{score.value:g} in {path.name}. Keep one."
            )
        elif known is None or known.questions is None:
            run.scores[key], sources[key] = score, path
    run.scores = {key: score for key, score in run.scores.items() if key not in contradicted}
    return run if run.scores or run.problems else None


def _score(
    task: str, metric: str, value: str | float, count: str | float | None = None, **options: Any
) -> tuple[ScoreKey, Score]:
    options = {"main": True, "unit": "%", "count": None if count is None else int(count), **options}
    return ScoreKey(LLAVA_SCRIPTS, task, metric), Score(float(value), True, {}, **options)


def _scienceqa(run: EvaluationRun, path: Path) -> Iterator[tuple[ScoreKey, Score]]:
    """Yield the accuracy of a result file, with the questions of the file beside it."""
    output = path.with_name(path.name.replace("_result.json", "_output.jsonl"))
    try:
        content = read_object(path)
        if "acc" not in content or "results" not in content:
            return
        count = content.get("count")
        if not is_finite(content["acc"]) or not (count is None or is_finite(count)):
            raise BadFile(f"{path}: ScienceQA is not scored (acc is {content['acc']}, count {count}).")
    except BadFile as error:
        run.problems.append(str(error))
        return
    questions = None
    if output.is_file():
        try:
            answers = read_object(output)  # its name says lines, but it is one object
            questions = {
                str(item["question_id"]): Question(
                    digest(str(item["question"])), str(item["ground_truth"]), {"accuracy": float(name == "correct")}
                )
                for name in ("correct", "incorrect")
                for item in answers[name]
            }
        except (BadFile, KeyError, TypeError) as error:
            run.problems.append(f"{output} is not what LLaVA's eval_science_qa.py writes ({error}).")
    yield _score("ScienceQA", "accuracy", content["acc"], count, questions=questions)


def _printed(text: str, folder: Path) -> Iterator[tuple[ScoreKey, Score]]:
    """Yield every number that a log holds."""
    f1 = []
    for category, count, block in _POPE_BLOCK.findall(text):
        for metric, pattern in _POPE:
            if match := re.search(pattern, block, re.MULTILINE):
                value = 100 * float(match[1])
                f1 += [value] if metric == "F1" else []
                yield _score(f"POPE {category}", metric, value, count, main=False)
    if len(f1) == 3:  # what LLaVA's paper reports
        yield _score("POPE", "mean F1", sum(f1) / 3)
    for experiment, count, accuracy in _TEXTVQA.findall(text):
        yield _score(_textvqa_task(folder, experiment.strip()), "accuracy", accuracy, count)
    for part, total in _MME.findall(text):
        yield _score(f"MME {part.lower()}", "total score", total, unit="points")
    for _, _, accuracy in _GQA.findall(text):
        yield _score("GQA testdev_balanced", "accuracy", accuracy)
    for count, accuracy, with_images in _SCIENCEQA.findall(text):
        yield _score("ScienceQA", "accuracy", accuracy, count)
        yield _score("ScienceQA", "IMG-accuracy", with_images, main=False)


def _textvqa_task(folder: Path, experiment: str) -> str:
    """Return the task by the prompts of the answers file; without that file, by what the scripts do."""
    for path in folder.rglob(f"{experiment}.jsonl") if re.fullmatch(r"[\w.\-]+", experiment) else ():
        try:
            prompt = str(next(read_lines(path), {}).get("prompt", ""))
        except BadFile:
            continue
        if prompt:
            return f"TextVQA {'with' if 'OCR token' in prompt else 'without'} OCR tokens"
    return "TextVQA with OCR tokens"
