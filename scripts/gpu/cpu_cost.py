"""Part "cpu": what needs no GPU: a training step, attach() on large models, the start of Python."""

from __future__ import annotations

import math
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomllib
from cost import time_step
from findings import Findings, Options, require
from llava_step import SIZES, make_batch, make_model
from timing import milliseconds, quartiles, ratio
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from llava_vista import VistaConfig, attach, install, uninstall

ROOT = Path(__file__).parents[2]
#: Modules of the models that are attached to; the last has the goal.
MODULES = (1000, 4000, 16000)
#: ``--vista_probe_steps`` of a training that is to pay for it.
EVERY = 50


def run(findings: Findings, options: Options) -> None:
    """Measure on the CPU whatever the device of the other parts is."""
    with findings.attempt("start of Python"):
        measure_start(findings, 2 if options.reduced else 400)
    with findings.attempt("attach()"):
        measure_attach(findings, [count // 40 if options.reduced else count for count in MODULES])
    with findings.attempt("--vista_probe_steps"):
        measure_probe(findings, options)
    with findings.attempt("training step, d=1024"):
        measure_added(findings, options._replace(device="cpu"))


def measure_added(findings: Findings, options: Options) -> None:
    """Add what VISTA adds to a step at d=1024.

    It depends on batch, length and width, not on depth, vocabulary or what the layers do. So the difference is taken in
    a shallow model, where the noise of the rest of the step is small, and divided by the step of the whole one.
    """
    sizes = [SIZES["tiny"]] * 2 if options.reduced else [SIZES["d=1024"], SIZES["d=1024, shallow"]]
    (trainee, whole), (_, shallow) = (time_step(size, options, options.seconds / 4) for size in sizes)
    step = milliseconds(whole["without"])
    pairs = zip(shallow["with"], shallow["without"], strict=True)
    low, middle, high = quartiles([1000 * (after - before) for after, before in pairs])
    noisy = [f"{value - 1:+.1%}" for value in ratio(whole["with"], whole["without"])]
    words = (
        f"{middle / step:+.2%}: {middle:+.2f} ms (quartiles {low:+.2f} to {high:+.2f}, {len(shallow['with'])} pairs in "
        f"a shallow model) of {step:.0f} ms; {len(whole['with'])} pairs of the whole step: {noisy[1]} (quartiles "
        f"{noisy[0]} to {noisy[2]})"
    )
    check = f"training step, d=1024, B={trainee.batch_size}, L={trainee.size.image + trainee.size.text}"
    findings.judge(check, words, goal="at most +0.5%", met=middle / step <= 0.005, whole=whole, shallow=shallow)


def measure_probe(findings: Findings, options: Options) -> None:
    """Add what the information costs: pairs within one training whose every second step is measured, A B A B."""
    size, steps = SIZES["tiny" if options.reduced else "d=1024"], 8 if options.reduced else 14
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(-time.process_time())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds[-1] += time.process_time()

    install(VistaConfig(probe_steps=2))
    try:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(folder, max_steps=steps, use_cpu=True, report_to=[], disable_tqdm=True,
                                          per_device_train_batch_size=1, remove_unused_columns=False,
                                          logging_steps=steps, save_strategy="no")  # fmt: skip
            rows = [make_batch(size, 1, "cpu") for _ in range(steps)]
            trainer = Trainer(make_model(size, "cpu"), arguments, train_dataset=rows, callbacks=[Clock()],
                              data_collator=lambda given: given[0])  # fmt: skip
            trainer.train()
    finally:
        uninstall()
    record = next(record for record in trainer.state.log_history if "loss" in record)
    require("vista_information" in record, "no step was measured")
    measured, others = seconds[2::2], seconds[3::2]  # the first pair has the first batch's checks
    low, middle, high = (value - 1 for value in ratio(measured, others))
    words = (
        f"{middle / EVERY:+.2%}: a measured step {middle:+.1%} (quartiles {low:+.1%} to {high:+.1%}, {len(others)} "
        f"pairs within one training) of {milliseconds(others):.0f} ms"
    )
    check = f"training with --vista_probe_steps {EVERY}, d={size.width}, B=1, L={size.image + size.text}"
    findings.judge(check, words, goal="below +1%", met=middle / EVERY < 0.01, seconds=seconds)


def measure_attach(findings: Findings, counts: list[int]) -> None:
    """Add the time of attach() on models with more and more modules."""
    points: dict[int, float] = {}
    for count in counts:
        model, times = make_deep_model(count), []
        for _ in range(7):
            begin = time.process_time()
            handle = attach(model)
            times.append(time.process_time() - begin)
            handle.detach()
        points[sum(1 for _ in model.modules())] = milliseconds(times)
    logs = ([math.log(value) for value in values] for values in (points.keys(), points.values()))
    growth, most = statistics.linear_regression(*logs).slope, max(points.values())
    words = ", ".join(f"{modules:,} modules {ms:.1f} ms" for modules, ms in points.items())
    goal, met = "at most 100 ms at 16,000 modules, linear growth", most <= 100 and growth <= 1.1
    findings.judge("attach()", f"{words}; log-log slope {growth:.2f}", goal=goal, met=met, ms=points)


def make_deep_model(modules: int) -> nn.Module:
    """Return a Llava of about so many modules, all tiny."""
    tiny = {"hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 1}
    text = LlamaConfig(**tiny, num_hidden_layers=modules // 13, vocab_size=8)
    vision = CLIPVisionConfig(**tiny, num_hidden_layers=1)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3)
    return LlavaForConditionalGeneration(config).train()


def measure_start(findings: Findings, rounds: int) -> None:
    """Add what the installed package adds to a start of Python that asks for nothing: rounds of processes, in turn.

    Beside it, what a start-up file costs that does nothing, and one that imports an empty module: what no design saves.
    """
    with tempfile.TemporaryDirectory() as name:
        nothing = make_environment(Path(name) / "nothing")
        kinds = {
            "installed": make_environment(Path(name) / "installed", installed=True),
            "a .pth file of one empty statement": make_environment(Path(name) / "line", {"a.pth": "import sys\n"}),
            "one that imports an empty module": make_environment(
                Path(name) / "module", {"a.pth": "import empty_module\n", "empty_module.py": ""}
            ),
        }
        arms = [nothing, *kinds.values()]
        for python in arms:  # files into memory
            milliseconds_of_start(python)
        added: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(rounds):
            taken = {python: milliseconds_of_start(python) for python in (arms if number % 2 == 0 else arms[::-1])}
            for kind, python in kinds.items():
                added[kind].append(taken[python] - taken[nothing])
    low, middle, high = quartiles(added.pop("installed"))
    profile = ", ".join(f"{kind} {quartiles(values)[1]:+.2f}" for kind, values in added.items())
    check = "start of Python without the flag, installed less not installed"
    words = f"{middle:+.2f} ms (quartiles {low:+.2f} to {high:+.2f}, {rounds} rounds). Profile: {profile}"
    findings.judge(check, words, goal="at most 0.3 ms", met=middle <= 0.3)


def make_environment(folder: Path, files: Mapping[str, str] | None = None, *, installed: bool = False) -> str:
    """Make an environment with some files, or with what our wheel puts into it, and return its interpreter."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = str(folder / "bin" / "python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    for name, text in (files or {}).items():
        (packages / name).write_text(text)
    if installed:
        shutil.copytree(ROOT / "llava_vista", packages / "llava_vista", ignore=shutil.ignore_patterns("__pycache__"))
        wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
        for source, target in wheel["force-include"].items():  # the start-up files, whatever they are
            shutil.copy(ROOT / source, packages / target)
    subprocess.run([python, "-m", "compileall", "-q", str(packages)], check=True)  # as pip leaves it
    return python


def milliseconds_of_start(python: str) -> float:
    """Return the ms of computing (user and system time) of one process that does nothing."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LLAVA_VISTA", "PYTHON"))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-c", "pass"], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
