"""lmms-eval for every task of the paper's tables, for each arm and seed, and the comparison of what it gave."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ...errors import ReproduceError
from ..kit.lmms_eval import read_lmms_eval
from ..kit.published_scores import published_tasks
from ..kit.report import Checklist
from .launch_script import quoted
from .planned_trainings import ReproduceSettings
from .training_sequence import print_checklist

#: The paper's lmms-eval. The task names are the same in 0.7.3.
PAPER_VERSION = "0.3.0"
#: Result folders beside a model's, as ``HARNESS-MODEL``.
LMMS_EVAL, LLAVA_EVAL = "lmms-eval", "llava-eval"
#: Tasks whose score needs a judge: lmms-eval asks an OpenAI-compatible server, and without a key guesses.
JUDGED = ("mmbench_en_dev", "mmbench_cn_dev")


def check_tasks(tasks: list[str], include_path: str | None) -> list[str]:
    """Return the tasks to evaluate: those that were named, or all of the paper's.

    Raises:
        ReproduceError: one is not the paper's, and there is no folder that may define it.
    """
    known = published_tasks()
    if include_path and not (Path(include_path).is_dir() and tasks):
        raise ReproduceError(f"--include-path {include_path}: expected a folder, and its tasks named by --tasks.")
    if not include_path and (unknown := [task for task in tasks if task not in known]):
        listed = f"--tasks {' '.join(unknown)}: not among the paper's tasks, {', '.join(known)}"
        raise ReproduceError(f"{listed}. Tasks of your own need --include-path.")
    return tasks or known


def evaluate(settings: ReproduceSettings, tasks: list[str], include_path: str | None, dry_run: bool) -> int:
    """Evaluate every arm and seed on each task, and return the exit code. A task whose results are there is kept.

    Raises:
        ReproduceError: something is missing, or an evaluation failed.
    """
    models = [settings.evaluated_model(seed, arm) for seed in settings.seeds for arm in settings.arms]
    checklist = _check(settings, models, tasks)
    print_checklist(checklist, "" if dry_run else "evaluated")
    is_shown = False
    for model in models:
        output = model.with_name(f"{LMMS_EVAL}-{model.name}")
        done = _scored(output)
        left = [task for task in tasks if task not in done]
        print(f"\n# {model}: {len(tasks) - len(left)} tasks are done, to do: {' '.join(left) or 'nothing'}")
        for task in left:
            command = _command(settings, model, task, output)
            command += ["--include_path", str(Path(include_path).resolve())] if include_path else []
            if not (dry_run and is_shown):  # the others differ in what the line above names
                print(quoted(command), flush=True)
            is_shown = True
            if dry_run:
                continue
            if subprocess.run(command).returncode:
                again = "What is done is kept, so the command can be repeated."
                raise ReproduceError(f"{task} failed for {model}. {again}")
            before, done = done, _scored(output)
            if done == before:  # lmms-eval ends with 0 after some of its errors
                said = f"lmms-eval ended without an error and without a new score in {output}"
                raise ReproduceError(f"{task} for {model}: {said}. The reason is in its output above.")
    if len(settings.arms) == 2:
        print("\n# then\n" + quoted(["llava-vista", *compare_words(settings, expected=LMMS_EVAL)]))
    return 1 if checklist.problems else 0


def _scored(output: Path) -> set[str]:
    """Return the tasks that lmms-eval has scored in a folder."""
    found = read_lmms_eval(output) if output.is_dir() else None
    return {key.task for key in found.scores} if found else set()


def _command(settings: ReproduceSettings, model: Path, task: str, output: Path) -> list[str]:
    name, arguments = settings.recipe.harness
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(settings.gpus)]
    command += ["-m", "lmms_eval", "--model", name, "--model_args", arguments.format(model=model), "--tasks", task]
    command += ["--batch_size", "1", "--log_samples", "--log_samples_suffix", model.name, "--output_path", str(output)]
    return command + (["--device", "cpu"] if settings.recipe.cpu else [])


def _check(settings: ReproduceSettings, models: list[Path], tasks: list[str]) -> Checklist:
    checklist = Checklist()
    where = f"in an environment in which {settings.recipe.package} is installed"
    install = f"For the paper's: pip install lmms-eval=={PAPER_VERSION}, {where}."
    if importlib.util.find_spec("lmms_eval") is None:
        checklist.wrong("lmms-eval", f"not installed here. {install}")
    elif (version := metadata.version("lmms-eval")) == PAPER_VERSION:
        checklist.ok("lmms-eval", version)
    else:
        checklist.note("lmms-eval", f"{version}, the paper's numbers are of {PAPER_VERSION}. {install}")
    for model in models:
        reason = _unusable(settings, model)
        (checklist.wrong if reason else checklist.ok)("model", reason or str(model))
    for task in JUDGED:
        if task in tasks:
            checklist.note(task, "asks a judge (OPENAI_API_KEY) for an answer that is not just a letter, or guesses")
    return checklist


def _unusable(settings: ReproduceSettings, folder: Path) -> str:
    """Return why a folder cannot be evaluated; "" when it can."""
    is_adapter = (folder / "adapter_config.json").is_file()
    if settings.recipe.merge_script and is_adapter:
        merging = "llava-vista reproduce train --stages finetune_lora"
        return f"{folder} is an unmerged LoRA adapter. Merge it with {merging}."
    if settings.recipe.package == "tinyllava" and "lora" in str(folder) and not is_adapter:
        return f"TinyLLaVA takes any model whose path has 'lora' in it for an adapter: {folder}. Name another --output."
    if not (folder / "config.json").is_file():
        return f"{folder} holds no model (no config.json). Train it with llava-vista reproduce train."
    return ""


def compare_words(settings: ReproduceSettings, expected: str = "") -> list[str]:
    """Return the words of ``llava-vista compare`` for both arms: each seed's last training, and its evaluations.

    The results of the harness ``expected`` are named even if they are not there yet.

    Raises:
        ReproduceError: there are no two arms.
    """
    if len(settings.arms) != 2:
        raise ReproduceError("a comparison needs both arms: leave out --arms.")
    words = ["compare"]
    for flag, arm in zip(("--baseline", "--vista"), settings.arms, strict=True):
        words.append(flag)
        for seed in settings.seeds:
            model = settings.evaluated_model(seed, arm)
            results = {harness: model.with_name(f"{harness}-{model.name}") for harness in (LMMS_EVAL, LLAVA_EVAL)}
            words.append(str(settings.stage_folder(seed, arm, settings.stages[-1])))
            words += [str(path) for harness, path in results.items() if path.is_dir() or harness == expected]
    return [*words, "--output", str(settings.output / "comparison.md")]
