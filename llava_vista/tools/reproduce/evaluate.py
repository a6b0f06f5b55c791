"""lmms-eval for every task of the paper's tables, for each arm and seed, and then the comparison.

Task names are those of lmms-eval 0.3.0, with which the paper was evaluated; 0.7.3 has the same.
"""

from __future__ import annotations

import importlib.util
import subprocess
from importlib import metadata
from pathlib import Path

from ...errors import ReproduceError
from ..compare.lmms_eval import read_lmms_eval
from ..compare.published import tasks as published_tasks
from .checklist import Checklist
from .examine import check_model
from .launch import find_program, quoted
from .plan import Settings, evaluated

PAPER_VERSION = "0.3.0"
TRIED_VERSIONS = (PAPER_VERSION, "0.7.3")
#: Folders of results beside a model's, as ``HARNESS-MODEL``.
HARNESSES = ("lmms-eval", "llava-eval")
#: Tasks whose score needs a judge: lmms-eval asks an OpenAI-compatible server, and without a key guesses.
JUDGED = ("mmbench_en_dev", "mmbench_cn_dev")


def results_folder(settings: Settings, seed: int, arm: str, model: Path) -> Path:
    return settings.arm_folder(seed, arm) / f"{HARNESSES[0]}-{model.name}"


def command(settings: Settings, model: Path, task: str, output: Path) -> list[str]:
    """One task's command line."""
    name, arguments = settings.recipe.harness
    return [
        find_program("accelerate") or "accelerate", "launch",
        "--num_processes", str(settings.gpus),
        "-m", "lmms_eval",
        "--model", name,
        "--model_args", arguments.format(model=model),
        "--tasks", task,
        "--batch_size", "1",
        "--log_samples",
        "--log_samples_suffix", model.name,
        "--output_path", str(output),
    ]  # fmt: skip


def _check(settings: Settings, models: dict[tuple[int, str], Path], tasks: list[str]) -> Checklist:
    checklist = Checklist()
    if importlib.util.find_spec("lmms_eval") is None:
        checklist.missing(
            "lmms-eval",
            f"is not installed here. pip install lmms-eval=={PAPER_VERSION} (the paper's), in an environment in which "
            f"{settings.recipe.package} can be imported.",
        )
    else:
        version = metadata.version("lmms-eval")
        known = version in TRIED_VERSIONS
        (checklist.ok if known else checklist.note)(
            "lmms-eval",
            version if known else f"{version}: the task names were read in {', '.join(TRIED_VERSIONS)} only",
        )
        if version != PAPER_VERSION:
            checklist.note("lmms-eval", f"the paper's numbers are of {PAPER_VERSION}; compare names both")
    for model in models.values():
        reason = check_model(settings, model)
        if reason:
            checklist.missing("model", reason)
        else:
            checklist.ok("model", str(model))
    for task in JUDGED:
        if task in tasks:
            checklist.note(
                task, "asks a judge (OPENAI_API_KEY) where an answer is not just a letter; without one it guesses"
            )
    return checklist


def evaluate(settings: Settings, only: list[str], dry_run: bool) -> int:
    """Every task for every arm and seed. A task whose results are there is kept.

    Returns:
        0, or 1 when a dry run finds something missing.

    Raises:
        ReproduceError: something is missing, a task is not of the paper, or an evaluation failed.
    """
    tasks = published_tasks()
    unknown = [task for task in only if task not in tasks]
    if unknown:
        raise ReproduceError(f"{', '.join(unknown)}: not among the paper's tasks, {', '.join(tasks)}.")
    models = {
        (seed, arm): evaluated(settings, seed, arm, settings.stages) for seed in settings.seeds for arm in settings.arms
    }
    checklist = _check(settings, models, only or tasks)
    print(checklist.render(), flush=True)
    if checklist.problems and not dry_run:
        listed = "; ".join(item.text for item in checklist.problems)
        raise ReproduceError(f"nothing was evaluated. {listed}")
    for (seed, arm), model in models.items():
        output = results_folder(settings, seed, arm, model)
        before = read_lmms_eval(output) if output.is_dir() else None
        done = {key.task for key in before.scores} if before else set()
        for task in only or tasks:
            if task in done:
                print(f"# seed {seed}, {arm}, {task}: done already")
                continue
            line = command(settings, model, task, output)
            print(f"\n# seed {seed}, {arm}, {task}\n{quoted(line)}", flush=True)
            if not dry_run and subprocess.run(line, check=False).returncode:
                raise ReproduceError(
                    f"{task} failed for {model}; what is done is kept, so the command can be repeated."
                )
    print("\n# then\n" + quoted(["llava-vista", *compare_words(settings, expected=HARNESSES[:1])]))
    return 1 if checklist.problems else 0


def compare_words(settings: Settings, expected: tuple[str, ...] = ()) -> list[str]:
    """`llava-vista compare` for both arms: each seed's last training, and whatever evaluations lie beside it.

    Args:
        expected: harnesses whose results will be there.
    """
    if len(settings.arms) != 2:
        raise ReproduceError("a comparison needs both arms: leave out --arms.")
    words = ["compare"]
    for flag, arm in zip(("--baseline", "--vista"), settings.arms, strict=True):
        words.append(flag)
        for seed in settings.seeds:
            folder = settings.arm_folder(seed, arm)
            model = evaluated(settings, seed, arm, settings.stages)
            results = {harness: folder / f"{harness}-{model.name}" for harness in HARNESSES}
            training = folder / settings.recipe.stage(settings.stages[-1]).folder
            words += [
                str(training),
                *(str(path) for name, path in results.items() if path.is_dir() or name in expected),
            ]
    return [*words, "--output", str(settings.output / "comparison.md")]
