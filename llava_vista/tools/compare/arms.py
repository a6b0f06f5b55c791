"""Two arms, each of one or more runs, and what lies in the directories that were named for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import CompareError
from .files import BadFile
from .llava_eval import read_llava_eval
from .lmms_eval import read_lmms_eval
from .scores import EvalRun
from .training import STATE_FILE, TrainingRun, looks_like_training, read_training

ARMS = ("baseline", "VISTA")


@dataclass
class Arm:
    """The runs of one arm, in the order in which they were named, and what could not be read."""

    name: str
    trainings: list[TrainingRun] = field(default_factory=list)
    evals: list[EvalRun] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_arm(name: str, folders: Sequence[str]) -> Arm:
    """Read every directory named for an arm. A directory may hold a training, evaluations, or both.

    Raises:
        CompareError: one is not a directory.
    """
    arm = Arm(name)
    for text in folders:
        folder = Path(text).expanduser()
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise CompareError(
                f"{text} {found}; expected for the {name} arm: a training output directory ({STATE_FILE}), or a "
                "directory with the results of lmms-eval or of LLaVA's own evaluation scripts."
            )
        _read_folder(arm, folder)
    return arm


def _read_folder(arm: Arm, folder: Path) -> None:
    found = looks_like_training(folder)
    if found:
        try:
            run = read_training(folder)
            arm.trainings.append(run)
            arm.problems += run.problems
        except BadFile as error:
            arm.problems.append(str(error))
    for read in (read_lmms_eval, read_llava_eval):
        evaluation = read(folder)
        if evaluation is not None:
            found = True
            arm.problems += evaluation.problems
            if evaluation.scores:
                arm.evals.append(evaluation)
    if not found:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{STATE_FILE}"))
        hint = f" Did you mean one of its folders: {', '.join(inside)}?" if inside else ""
        arm.problems.append(
            f"{folder} holds nothing to compare: no {STATE_FILE}, no *_results.json of lmms-eval, and no output of "
            f"LLaVA's evaluation scripts.{hint}"
        )
