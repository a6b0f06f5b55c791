"""The runs of an arm: what the directories named for it hold, be it trainings, evaluations, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import CompareError
from ..kit.evaluation_scores import EvaluationRun
from ..kit.json_files import BadFile
from ..kit.lmms_eval import read_lmms_eval
from ..kit.training_folder import STATE_FILE, TrainingRun, looks_like_training, read_training
from .llava_logs import read_llava_logs
from .vlmevalkit import read_vlmevalkit


@dataclass
class Arm:
    """The runs of one arm in the order in which they were named, and what could not be read."""

    name: str
    folders: list[Path]
    trainings: list[TrainingRun] = field(default_factory=list)
    evaluations: list[EvaluationRun] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_arm(name: str, folders: Sequence[str]) -> Arm:
    """Read every directory named for an arm; CompareError when one is not a directory, or is named twice."""
    arm = Arm(name, [Path(text).expanduser() for text in folders])
    known: set[Path] = set()
    for text, folder in zip(folders, arm.folders, strict=True):
        if folder.resolve() in known:
            raise CompareError(f"{text} is named twice for the {name} arm; name each run once.")
        known.add(folder.resolve())
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise CompareError(
                f"{text} {found}; expected for the {name} arm: a training output directory ({STATE_FILE}), or a "
                "directory with the results of lmms-eval, VLMEvalKit or LLaVA's own evaluation scripts."
            )
        _read_folder(arm, folder)
    return arm


def _read_folder(arm: Arm, folder: Path) -> None:
    is_training = looks_like_training(folder)
    if is_training:
        try:
            run = read_training(folder)
            arm.trainings.append(run)
            arm.problems += run.problems
        except BadFile as error:
            arm.problems.append(str(error))
    found = [read(folder) for read in (read_lmms_eval, read_llava_logs, read_vlmevalkit)]
    for evaluation in filter(None, found):
        arm.problems += evaluation.problems
        if evaluation.scores:
            arm.evaluations.append(evaluation)
    if not is_training and not any(found):
        inside = sorted(path.parent.name for path in folder.glob(f"*/{STATE_FILE}"))
        hint = f" Did you mean one of its folders: {', '.join(inside)}?" if inside else ""
        arm.problems.append(
            f"{folder} holds nothing to compare: no {STATE_FILE} and no TensorBoard events, no *_results.json of "
            f"lmms-eval, no *_acc.csv or *_score.csv of VLMEvalKit, and no output of LLaVA's evaluation scripts.{hint}"
        )
