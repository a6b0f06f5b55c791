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

Both write ``doc_hash`` of a field that neither fills: it is the hash of ``null`` in every line. It is compared all the
same, and does not count as evidence. ``prompt_hash`` is the SHA-256 of ``input``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .evaluation_scores import LMMS_EVAL, EvaluationRun, Questions, Score, ScoreKey
from .json_files import BadFile, is_finite, read_lines, read_object
from .training_folder import recorded_seed

_RESULTS = re.compile(r"(?P<date>.+)_results\.json")
#: ``results.<task>`` entries that are no metric: spreads, and what 0.7 derives from several answers per question.
_DERIVED = re.compile(
    r"_(stderr|stderr_clt|stderr_clustered|expected_accuracy|consensus_accuracy|internal_variance|consistency_rate)$"
)
#: Parts of ``model_args`` that say which model is evaluated, or on which device; the others say how.
_MODEL_NAME = re.compile("pretrained|model(_name|_path|_version|_id)?|path|peft|delta|engine|device(_map)?")
#: Parts of a task's configuration that change its questions or answers.
_TASK_SETTINGS = (
    *("dataset_path", "dataset_name", "test_split", "generation_kwargs", "lmms_eval_specific_kwargs", "description"),
    "repeats",
)


def read_lmms_eval(folder: Path) -> EvaluationRun | None:
    """Read an output directory: the model's folder, or the one above it.

    Returns:
        None when there is no ``*_results.json`` of lmms-eval. Of several results for a task the newest counts.
    """
    run = EvaluationRun(folder)
    contents: dict[Path, dict[str, Any]] = {}
    paths = [*folder.glob("*_results.json"), *folder.glob("*/*_results.json")]
    for path in sorted(paths, key=lambda path: path.name):  # a name begins with the date
        try:
            content = read_object(path)
        except BadFile as error:
            run.problems.append(str(error))
            continue
        if isinstance(content.get("results"), dict):
            contents[path] = content
    models = sorted({path.parent.name for path in contents})
    if len(models) > 1:
        run.problems.append(
            f"{folder} holds lmms-eval results of several models ({', '.join(models)}); name the folder of one."
        )
        return run
    for path, content in contents.items():
        run.model = str(content.get("model_name") or _part(content, "config").get("model_args") or run.model)
        run.date = str(content.get("date") or "")
        run.seed = recorded_seed(folder, path.parent, Path(run.model))
        for task, values in content["results"].items():
            if isinstance(values, dict):
                _read_task(run, path, content, task, values)
            else:
                run.problems.append(f"{path}: the results of {task} are no JSON object.")
    return run if contents or run.problems else None


def _read_task(
    run: EvaluationRun, path: Path, content: Mapping[str, Any], task: str, values: Mapping[str, Any]
) -> None:
    numbers: dict[tuple[str, str], float] = {}
    without = []
    for name, value in values.items():
        metric, comma, filter_name = name.rpartition(",")
        if not comma or _DERIVED.search(metric):
            continue
        if is_finite(value):
            numbers[metric, filter_name] = float(value)
        elif metric != "submission":  # a file for a server; no score in any release
            without.append(f"{metric} is {json.dumps(value)}")
    if without or not (numbers or _part(content, "group_subtasks").get(task)):
        run.problems.append(f"{path}: {task} is not scored ({', '.join(without) or 'it has no metric'}).")
    match = _RESULTS.fullmatch(path.name)
    questions = None
    if match:
        samples = path.with_name(f"{match['date']}_samples_{task}.jsonl")
        questions = _read_questions(run, samples, {metric for metric, _ in numbers})
    if questions is not None and not questions.answered:
        run.problems.append(
            f"{path}: all {len(questions.ids)} answers to {task} are empty, so its scores are not used."
        )
        return
    label = f"{task} with OCR tokens" if _uses_ocr(content, task) else task
    conditions = _conditions(content, task)
    higher = _part(content, "higher_is_better", task)
    counts = [_part(content, "n-samples", task).get("effective"), values.get("samples")]
    for position, ((metric, filter_name), number) in enumerate(numbers.items()):
        key = ScoreKey(LMMS_EVAL, label, metric if filter_name == "none" else f"{metric} ({filter_name})")
        run.scores[key] = Score(
            number,
            higher[metric] if isinstance(higher.get(metric), bool) else None,
            {**conditions, "filter": filter_name},
            next((int(count) for count in counts if is_finite(count)), None),
            questions,
            main=position == 0,
        )


def _part(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return a nested object, {} where it is missing or something else."""
    value: Any = content
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, dict) else {}


def _uses_ocr(content: Mapping[str, Any], task: str) -> bool:
    """Return whether the prompt has OCR tokens (TextVQA), which makes it another task."""
    options = _part(content, "configs", task, "lmms_eval_specific_kwargs")
    return bool(options.get("ocr") or _part(options, "default").get("ocr"))


def _conditions(content: Mapping[str, Any], task: str) -> dict[str, str]:
    """Return everything recorded that changes the questions, how they are asked, or how the model is run."""
    config, settings = _part(content, "config"), _part(content, "configs", task)
    limit, release = config.get("limit"), str(content.get("lmms_eval_version", "unknown"))
    conditions = {
        "lmms-eval generation": "0.7" if "lmms_eval_version" in content else "0.3",
        "model wrapper": str(config.get("model_backend") or config.get("model")),
        "model_args": json.dumps(_model_options(config.get("model_args")), sort_keys=True),
        "limit": "none" if limit in (None, -1, "None") else f"{limit:g}" if is_finite(limit) else str(limit),
        "offset": str(config.get("offset") or 0),
        "n-shot": str(_part(content, "n-shot").get(task)),
        "task version": str(_part(content, "versions").get(task)),
        "gen_kwargs": str(config.get("gen_kwargs") or ""),
        "system instruction": str(content.get("system_instruction_sha")),
        "chat template": str(content.get("chat_template_sha")),
        **{name: json.dumps(settings.get(name), sort_keys=True) for name in _TASK_SETTINGS},
    }
    # Installed from a package index, lmms-eval does not know its release; 0.3's git_hash is of the working directory.
    return conditions if "unknown" in release else {"lmms-eval release": release, **conditions}


def _model_options(arguments: Any) -> dict[str, str]:
    """Return the parts of ``model_args`` (a dictionary, or "name=value,...") that say how a model is run."""
    if not isinstance(arguments, Mapping):
        arguments = dict(part.partition("=")[::2] for part in str(arguments or "").split(","))
    return {name: str(value) for name, value in arguments.items() if name and not _MODEL_NAME.fullmatch(name)}


def _read_questions(run: EvaluationRun, path: Path, metrics: Iterable[str]) -> Questions | None:
    """Return the questions of a task, None when they were not logged or their file is bad."""
    if not path.is_file():
        return None
    questions = Questions([], [], [], {metric: [] for metric in metrics})
    try:
        for line in read_lines(path):
            if "doc_id" not in line:
                raise BadFile(f"{path} has a line without doc_id: it is no samples file of lmms-eval.")
            questions.ids.append(str(line["doc_id"]))
            questions.answered += _has_content(line.get("filtered_resps", line.get("resps", "not logged")))
            prompt = line.get("input")
            questions.prompts.append(
                str(line.get("prompt_hash") or (digest(prompt) if isinstance(prompt, str) else ""))
            )
            questions.targets.append(digest(f"{line.get('doc_hash', '')}{line['target']}") if "target" in line else "")
            for metric, entries in questions.entries.items():
                entries.append(line.get(metric))
    except BadFile as error:
        run.problems.append(f"{error} Its task is compared without its questions.")
        return None
    if len(set(questions.ids)) < len(questions.ids):
        run.problems.append(
            f"{path} has a doc_id more than once (several filters, or two evaluations in one file), so the questions "
            "cannot be paired."
        )
        return None
    return questions


def _has_content(answer: Any) -> bool:
    if isinstance(answer, list):
        return any(map(_has_content, answer))
    return answer is not None and str(answer).strip() != ""


def digest(text: str) -> str:
    """Return the hash that lmms-eval writes of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
