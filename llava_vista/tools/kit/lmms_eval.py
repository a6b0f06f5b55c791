"""Results of lmms-eval: ``<date>_results.json`` and ``<date>_samples_<task>.jsonl`` in a folder per model.

Read in the sources of lmms-eval 0.3.0 and 0.7.3 (``loggers/evaluation_tracker.py``, ``evaluator.py``):

========================  ============================================  =====================================
what                      0.3                                           0.7
========================  ============================================  =====================================
results                   ``results.<task>."<metric>,<filter>"``        the same, and further ``_stderr_clt``,
                                                                        ``_stderr_clustered``, stability keys
run                       ``config`` (limit, ...), no version           and ``offset``, ``lmms_eval_version``
sample                    doc, arguments, ``prompt_hash``,              none of these; ``input`` (the prompt,
                          ``target_hash``, ``doc_hash``                 in both), ``doc_hash``
========================  ============================================  =====================================

``doc_hash`` is written by both, but of a field that neither fills: it is the hash of ``null`` in every line. It is
checked all the same, and does not count as evidence. ``prompt_hash`` is the SHA-256 of ``input``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .evaluation_scores import LMMS_EVAL, EvalRun, Samples, Score, ScoreKey
from .json_files import BadFile, read_lines, read_object

_RESULTS = re.compile(r"(?P<date>.+)_results\.json")
#: ``results.<task>`` entries that are no metric: spreads, and what 0.7 derives from several answers per question.
_DERIVED = re.compile(
    r"_(stderr|stderr_clt|stderr_clustered|expected_accuracy|consensus_accuracy|internal_variance|consistency_rate)$"
)
#: Parts of a task's configuration that change its questions or answers.
_TASK_SETTINGS = (
    "dataset_path",
    "dataset_name",
    "test_split",
    "generation_kwargs",
    "lmms_eval_specific_kwargs",
    "description",
)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_lmms_eval(folder: Path) -> EvalRun | None:
    """Read an output directory: the model's folder, or the one above it.

    Returns:
        None when there is no ``*_results.json`` of lmms-eval. Of several results for a task the newest counts. Bad
        files are in ``problems``.
    """
    paths = sorted(
        (path for path in (*folder.glob("*_results.json"), *folder.glob("*/*_results.json"))),
        key=lambda path: path.name,  # begins with the date
    )
    run = EvalRun(folder, "")
    contents: list[tuple[Path, dict[str, Any]]] = []
    for path in paths:
        try:
            content = read_object(path)
        except BadFile as error:
            run.problems.append(str(error))
            continue
        if isinstance(content.get("results"), dict):
            contents.append((path, content))
    folders = sorted({path.parent.name for path, _ in contents})
    if len(folders) > 1:
        run.problems.append(
            f"{folder} holds lmms-eval results of several models ({', '.join(folders)}); name the folder of one."
        )
        return run
    if not contents and not run.problems:
        return None
    for path, content in contents:
        run.model = str(content.get("model_name") or (content.get("config") or {}).get("model_args") or run.model)
        _read_results(run, path, content)
    return run


def _read_results(run: EvalRun, path: Path, content: Mapping[str, Any]) -> None:
    date = _RESULTS.fullmatch(path.name)
    for task, values in content["results"].items():
        if not isinstance(values, dict):
            run.problems.append(f"{path}: the results of {task} are no JSON object.")
            continue
        numbers = {
            key: float(value)
            for key, value in values.items()
            if "," in key
            and isinstance(value, (int, float))
            and not isinstance(value, bool)
            and not _DERIVED.search(key.rpartition(",")[0])
        }
        samples_path = path.with_name(f"{date['date']}_samples_{task}.jsonl") if date else path
        samples = _read_samples(run, samples_path, {key.rpartition(",")[0] for key in numbers}) if date else None
        conditions = _conditions(content, task)
        higher = _part(content, "higher_is_better", task)
        for number, (key, value) in enumerate(numbers.items()):
            metric, _, filter_name = key.rpartition(",")
            if not math.isfinite(value):
                run.problems.append(f"{path}: {task} {metric} is {value}.")
                continue
            better = higher.get(metric)
            score = Score(
                value,
                better if isinstance(better, bool) else None,
                {**conditions, "filter": filter_name},
                questions=_questions(content, task, values),
                samples=samples,
                main=number == 0,
            )
            name = metric if filter_name == "none" else f"{metric} ({filter_name})"
            run.scores[ScoreKey(LMMS_EVAL, task_label(content, task), name)] = score


def _part(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A nested object, {} where it is missing or something else."""
    value: Any = content
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, dict) else {}


def _uses_ocr(content: Mapping[str, Any], task: str) -> bool:
    """Whether OCR tokens stand in the prompt (TextVQA): then it is another task than without."""
    kwargs = _part(content, "configs", task, "lmms_eval_specific_kwargs")
    return bool(kwargs.get("ocr") or _part(kwargs, "default").get("ocr"))


def task_label(content: Mapping[str, Any], task: str) -> str:
    """The task's name, with what makes it another task than the one usually meant by it."""
    return f"{task} with OCR tokens" if _uses_ocr(content, task) else task


def _questions(content: Mapping[str, Any], task: str, values: Mapping[str, Any]) -> int | None:
    for count in (_part(content, "n-samples", task).get("effective"), values.get("samples")):
        if isinstance(count, (int, float)):
            return int(count)
    return None


def _conditions(content: Mapping[str, Any], task: str) -> dict[str, str]:
    """Everything recorded that changes the questions or how they are put."""
    config = _part(content, "config")
    limit = config.get("limit")
    conditions = {
        "lmms-eval generation": "0.7" if "lmms_eval_version" in content else "0.3",
        "limit": "none" if limit in (None, -1, -1.0, "None") else f"{limit:g}" if _number(limit) else str(limit),
        "offset": str(config.get("offset") or 0),
        "n-shot": str((content.get("n-shot") or {}).get(task)),
        "task version": str((content.get("versions") or {}).get(task)),
        "gen_kwargs": str(config.get("gen_kwargs") or ""),
        "system instruction": str(content.get("system_instruction_sha")),
        "chat template": str(content.get("chat_template_sha")),
    }
    settings = _part(content, "configs", task)
    for name in _TASK_SETTINGS:
        conditions[name] = json.dumps(settings.get(name), sort_keys=True)
    return conditions


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_samples(run: EvalRun, path: Path, metrics: Iterable[str]) -> Samples | None:
    """The questions of a task; None, and a problem where something is wrong with the file, when there are none."""
    if not path.is_file():
        return None
    ids: list[str] = []
    prompts: list[str] = []
    targets: list[str] = []
    entries: dict[str, list[Any]] = {metric: [] for metric in metrics}
    try:
        for line in read_lines(path):
            if "doc_id" not in line:
                raise BadFile(f"{path} has a line without doc_id: it is no samples file of lmms-eval.")
            ids.append(str(line["doc_id"]))
            prompt = line.get("input")
            prompts.append(str(line.get("prompt_hash") or (_digest(prompt) if isinstance(prompt, str) else "")))
            target = f"{line.get('doc_hash', '')}{line['target']}" if "target" in line else ""
            targets.append(_digest(target) if target else "")
            for metric, values in entries.items():
                values.append(line.get(metric))
    except BadFile as error:
        run.problems.append(f"{error} Its task is compared without its questions.")
        return None
    if len(set(ids)) < len(ids):
        run.problems.append(
            f"{path} has a doc_id more than once (several filters, or two evaluations in one file), so the questions "
            "cannot be paired."
        )
        return None
    return Samples(ids, prompts, targets, entries)
