"""Results of lmms-eval: ``<date>_results.json`` and ``<date>_samples_<task>.jsonl`` in a folder per model.

Read in the sources of lmms-eval 0.3.0 and 0.7.3 (``loggers/evaluation_tracker.py``, ``evaluator.py``). Both write
``results.<task>."<metric>,<filter>"`` and the run's ``config``. 0.7 adds ``lmms_eval_version``, an ``offset`` and more
spreads, and leaves out a question's ``target_hash`` and ``prompt_hash``, the SHA-256 of ``input``. Both write
``doc_hash`` of a field that neither fills: it is the hash of ``null`` in every line, so it is no evidence.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .evaluation_scores import LMMS_EVAL, EvaluationRun, Question, Score, ScoreKey
from .json_files import BadFile, is_finite, object_in, read_lines, read_object
from .training_folder import recorded_seed

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
    """Read an output directory: the model's folder, or the one above it; None without a ``*_results.json``.

    Of several results for a task the newest counts.
    """
    run = EvaluationRun(LMMS_EVAL, folder)
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
        run.model = str(content.get("model_name") or object_in(content, "config").get("model_args") or run.model)
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
    if without or not (numbers or object_in(content, "group_subtasks").get(task)):
        run.problems.append(f"{path}: {task} is not scored ({', '.join(without) or 'it has no metric'}).")
    samples = path.with_name(f"{path.name.removesuffix('_results.json')}_samples_{task}.jsonl")
    questions, answered = None, 0
    try:
        if samples.is_file():
            questions, answered = _read_questions(samples, {metric for metric, _ in numbers})
    except BadFile as error:
        run.problems.append(f"{error} Its task is compared without its questions.")
    if questions is not None and not answered:
        run.problems.append(f"{path}: all {len(questions)} answers to {task} are empty, so its scores are not used.")
        return
    options = object_in(content, "configs", task, "lmms_eval_specific_kwargs")
    uses_ocr = options.get("ocr") or object_in(options, "default").get("ocr")
    label = f"{task} with OCR tokens" if uses_ocr else task  # in the prompt (TextVQA), which makes it another task
    conditions = _conditions(content, task)
    higher = object_in(content, "higher_is_better", task)
    counts = (object_in(content, "n-samples", task).get("effective"), values.get("samples"))
    count = next((int(count) for count in counts if is_finite(count)), None)
    for position, ((metric, filter_name), number) in enumerate(numbers.items()):
        key = ScoreKey(LMMS_EVAL, label, metric if filter_name == "none" else f"{metric} ({filter_name})")
        direction = higher[metric] if isinstance(higher.get(metric), bool) else None
        asked = {**conditions, "filter": filter_name}
        run.scores[key] = Score(number, direction, asked, count, questions, main=position == 0)


def _conditions(content: Mapping[str, Any], task: str) -> dict[str, str]:
    """Return everything recorded that changes the questions, how they are asked, or how the model is run."""
    config, settings = object_in(content, "config"), object_in(content, "configs", task)
    limit, release = config.get("limit"), str(content.get("lmms_eval_version", "unknown"))
    options = config.get("model_args")  # a dictionary, or "name=value,..."
    if not isinstance(options, dict):
        options = dict(part.partition("=")[::2] for part in str(options or "").split(","))
    how = {name: str(value) for name, value in options.items() if name and not _MODEL_NAME.fullmatch(name)}
    conditions = {
        "lmms-eval generation": "0.7" if "lmms_eval_version" in content else "0.3",
        "model wrapper": str(config.get("model_backend") or config.get("model")),
        "model_args": json.dumps(how, sort_keys=True),
        "limit": "none" if limit in (None, -1, "None") else f"{limit:g}" if is_finite(limit) else str(limit),
        "offset": str(config.get("offset") or 0),
        "n-shot": str(object_in(content, "n-shot").get(task)),
        "task version": str(object_in(content, "versions").get(task)),
        "gen_kwargs": str(config.get("gen_kwargs") or ""),
        "system instruction": str(content.get("system_instruction_sha")),
        "chat template": str(content.get("chat_template_sha")),
        **{name: json.dumps(settings.get(name), sort_keys=True) for name in _TASK_SETTINGS},
    }
    # Installed from a package index, lmms-eval does not know its release; 0.3's git_hash is of the working directory.
    return conditions if "unknown" in release else {"lmms-eval release": release, **conditions}


def _read_questions(path: Path, metrics: Iterable[str]) -> tuple[dict[str, Question], int]:
    """Return the questions of a task by id, and how many answers are not empty.

    Raises:
        BadFile: the file is bad, or has an id more than once.
    """
    questions: dict[str, Question] = {}
    answered = 0
    for line in read_lines(path):
        if "doc_id" not in line:
            raise BadFile(f"{path} has a line without doc_id: it is no samples file of lmms-eval.")
        name, prompt = str(line["doc_id"]), line.get("input")
        if name in questions:
            raise BadFile(f"{path} has a doc_id more than once (several filters, or two evaluations in one file).")
        answered += _has_content(line.get("filtered_resps", line.get("resps", "not logged")))
        hashed = line.get("prompt_hash") or (digest(prompt) if isinstance(prompt, str) else "")
        target = digest(f"{line.get('doc_hash', '')}{line['target']}") if "target" in line else ""
        questions[name] = Question(str(hashed), target, {metric: line.get(metric) for metric in metrics})
    return questions, answered


def _has_content(answer: Any) -> bool:
    if isinstance(answer, list):
        return any(map(_has_content, answer))
    return answer is not None and str(answer).strip() != ""


def digest(text: str) -> str:
    """Return the hash that lmms-eval writes of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
