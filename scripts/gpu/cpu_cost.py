"""Part "cpu": what needs no GPU: a step, growth of the objective, attach() on large models, start of Python."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomllib
import torch
from cases import make_case
from cost import measure_step
from findings import Findings, Options
from timing import alternate, milliseconds, quartiles, slope
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_vista import attach

ROOT = Path(__file__).parents[2]
#: What grows -> its values; the base is B=8, L=2048 with 576 image positions, d=2048.
GROWTH = {
    "L": (1024, 2048, 4096, 8192),
    "m": (512, 1024, 2048, 4096),
    "B": (4, 8, 16, 32),
    "d": (1024, 2048, 4096, 8192),
    "images": (4, 8, 16, 32),
}
#: Modules of the model that is attached to; the last has the goal.
MODULES = (1000, 4000, 16000)


def run(findings: Findings, options: Options) -> None:
    """Measure on the CPU whatever the device of the other parts is."""
    options = options._replace(device="cpu")
    checks: dict[str, Callable[[Findings, Options], None]] = {
        "start of Python": measure_start, "attach()": measure_attach, "growth of the objective": measure_growth,
    }  # fmt: skip
    for check, function in checks.items():
        with findings.attempt(check):
            function(findings, options)
    size = "tiny" if options.reduced else "d=1024"
    with findings.attempt(f"training step, {size}"):
        measure_step(findings, size, options, goal=0.005, seconds=options.seconds / 2)


def measure_growth(findings: Findings, options: Options) -> None:
    """Add the log-log slopes of forward and backward (l2, bfloat16) as each size grows."""
    slopes = []
    for axis, values in GROWTH.items():
        points: dict[bool, dict[float, float]] = {False: {}, True: {}}
        for value in values:
            for trained, found in points.items():
                found[value] = time_of_size(axis, value // 64 if options.reduced else value, trained, options)
        slopes.append(f"{axis} {slope(points[False]):.2f}/{slope(points[True]):.2f}")
    findings.add("growth of the objective, log-log slopes (frozen/trained)", ", ".join(slopes), goal="about 1 at most")


def time_of_size(axis: str, value: int, trained: bool, options: Options) -> float:
    """Return the ms of forward and backward with one size changed."""
    shrink = 64 if options.reduced else 1
    sizes = {"B": 8, "L": 2048 // shrink, "d": 2048 // shrink, "image": 576 // shrink, axis: max(1, value)}
    spans, length = [(4, 4 + sizes["image"])], None
    if axis == "L":
        spans = [(4, 4 + sizes["L"] * 9 // 32)]
    elif axis == "m":  # the rest of a long row is padding
        length, sizes["L"] = sizes["image"] + value + 4, sizes["image"] + 4100 // shrink + 4
    elif axis == "images":  # of 128 positions, 16 text tokens before each
        spans = [
            (start := 144 // shrink * number + 16 // shrink, start + 128 // shrink) for number in range(max(1, value))
        ]
        sizes["L"] = spans[-1][1] + 16
    shape = (sizes["B"], sizes["L"], sizes["d"])
    case = make_case(shape, torch.bfloat16, "cpu", trained=trained, spans=spans, length=length)

    def step() -> None:
        case.clear()
        case.ours("l2").backward()

    return milliseconds(alternate({"ours": step}, 3 if options.reduced else 5, "cpu", seconds=10)["ours"])


def measure_attach(findings: Findings, options: Options) -> None:
    """Add the time of attach() on models with more and more modules."""
    points: dict[float, float] = {}
    for wanted in MODULES:
        model = make_deep_model(wanted // 40 if options.reduced else wanted)

        def attach_once(model: torch.nn.Module = model) -> None:
            attached.append(attach(model))

        attached: list[Any] = []
        times = alternate(
            {"attach": attach_once}, 7, "cpu", prepare=lambda _: attached and attached.pop().detach(), seconds=20
        )
        points[sum(1 for _ in model.modules())] = milliseconds(times["attach"])
    growth, most = slope(points), max(points.values())
    words = ", ".join(f"{modules:,} modules {ms:.1f} ms" for modules, ms in points.items())
    findings.judge(
        "attach()", f"{words}; log-log slope {growth:.2f}", goal="at most 100 ms at 16,000 modules, linear growth",
        met=most <= 100 and growth <= 1.1, ms=points,
    )  # fmt: skip


def make_deep_model(modules: int) -> torch.nn.Module:
    """Return a Llava of about so many modules, all tiny."""
    text = LlamaConfig(
        hidden_size=4, intermediate_size=4, num_hidden_layers=modules // 13, num_attention_heads=1, vocab_size=8
    )
    vision = CLIPVisionConfig(hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=3)
    ).train()


def measure_start(findings: Findings, options: Options) -> None:
    """Add what the installed package adds to a start of Python that asks for nothing, and to one that imports it."""
    rounds = 2 if options.reduced else 400
    with tempfile.TemporaryDirectory() as name:
        plain, installed = (make_environment(Path(name) / kind, kind == "installed") for kind in ("plain", "installed"))
        added = start_difference((plain, "pass"), (installed, "pass"), rounds)
        imported = start_difference((installed, "pass"), (installed, "import llava_vista"), max(2, rounds // 20))
    low, middle, high = quartiles(added)
    findings.judge(
        "start of Python without the flag, installed less not installed",
        f"{middle:+.2f} ms (quartiles {low:+.2f} to {high:+.2f}, {rounds} pairs)", goal="at most 0.3 ms",
        met=middle <= 0.3,
    )  # fmt: skip
    findings.add("`import llava_vista` (with torch where it is installed)", f"{quartiles(imported)[1]:.1f} ms")


def make_environment(folder: Path, is_installed: bool) -> str:
    """Make an environment with nothing, or with what our wheel puts into it, and return its interpreter."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = str(folder / "bin" / "python")
    if is_installed:
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = Path(subprocess.check_output([python, "-c", where], text=True).strip())
        shutil.copytree(ROOT / "llava_vista", packages / "llava_vista", ignore=shutil.ignore_patterns("__pycache__"))
        wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
        for source, target in wheel["force-include"].items():  # the start-up files, whatever they are
            shutil.copy(ROOT / source, packages / target)
        subprocess.run([python, "-m", "compileall", "-q", str(packages)], check=True)  # as pip leaves it
    return python


def start_difference(first: tuple[str, str], second: tuple[str, str], rounds: int) -> list[float]:
    """Return the ms of computing of the second (interpreter, code) less the first's, round by round, A B B A."""
    start(*first), start(*second)  # files into memory
    differences = []
    for number in range(rounds):
        pair = [start(*arm) for arm in ((first, second) if number % 2 == 0 else (second, first))]
        differences.append((pair[1] - pair[0]) * (1 if number % 2 == 0 else -1))
    return differences


def start(python: str, code: str) -> float:
    """Return the ms of computing (user and system time) of one process."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LLAVA_VISTA", "PYTHON"))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-c", code], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
