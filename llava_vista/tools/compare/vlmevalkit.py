"""Results of VLMEvalKit: ``MODEL_DATASET_acc.csv``, ``..._score.csv`` and ``..._score.json`` in a folder named MODEL.

Read in its source (``dataset/image_mcq.py``, ``image_vqa.py``, ``image_yorn.py``): a run writes to
``MODEL/T<date>_G<commit>`` and links its files in ``MODEL``. Accuracies of multiple-choice sets have a column ``split``
and are fractions; those of question answering have none and are percentages. Everything else is shown as it is
reported. Another judge is part of the file's name, and so another task. The answers are spreadsheets, which are not
read: there are no intervals.
"""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

from ..kit.evaluation_scores import VLMEVALKIT, EvaluationRun, Score, ScoreKey
from ..kit.training_folder import recorded_seed

_RUN_FOLDER = re.compile(r"T\d+_G\w*")
_RESULT = re.compile(r".+_(acc|score)\.(csv|json)")


def read_vlmevalkit(folder: Path) -> EvaluationRun | None:
    """Read the folder of a model, or of one of its runs; None when it has no results of VLMEvalKit."""
    runs = sorted(path for path in folder.iterdir() if path.is_dir() and _RUN_FOLDER.fullmatch(path.name))
    for place in (folder, *reversed(runs)):
        # a link may point to nothing
        files = [path for path in sorted(place.iterdir()) if _RESULT.fullmatch(path.name) and path.is_file()]
        if files:
            break
    else:
        return None
    place = files[0].resolve().parent  # of a link, the run that it belongs to
    is_run = bool(_RUN_FOLDER.fullmatch(place.name))
    model = place.parent.name if is_run else place.name
    run = EvaluationRun(VLMEVALKIT, folder, model, recorded_seed(folder), place.name if is_run else "")
    for path in files:
        name, _, kind = path.stem.rpartition("_")
        if not name.startswith(f"{model}_"):
            run.problems.append(f"{path} is not named after its folder's model, {model}, so its task is not known.")
            continue
        try:
            _read_file(run, path, name.removeprefix(f"{model}_"), is_accuracy=kind == "acc")
        except (OSError, ValueError, csv.Error) as error:
            run.problems.append(f"{path} cannot be read ({error}).")
    return run


def _read_file(run: EvaluationRun, path: Path, task: str, is_accuracy: bool) -> None:
    text = path.read_text(encoding="utf-8-sig")
    rows = [json.loads(text)] if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("an object was expected")
    count = len(run.scores)
    for line, row in enumerate(rows):
        values = {name: _number(value) for name, value in row.items()}
        numbers = {name: value for name, value in values.items() if value is not None}
        words = [str(row[name]) for name in values if name not in numbers and row[name] not in (None, "", "none")]
        named = f"{task} ({', '.join(words)})" if words else task
        unit, better = ("" if "split" in row else "%", True) if is_accuracy else ("as reported", None)
        for position, (metric, value) in enumerate(numbers.items()):
            score = Score(value, better, {}, main=line == position == 0, unit=unit)
            run.scores[ScoreKey(VLMEVALKIT, named, metric)] = score
    if len(run.scores) == count:
        run.problems.append(f"{path}: {task} is not scored (there is no number in it).")


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
