"""Time that the installed package adds to a Python process without VISTA, and time of importing it.

    python scripts/bench/startup.py

Two throw-away virtual environments, the same but for our wheel in one of them; `python -c pass` in turn. (`python -S`
would be no comparison: it skips the whole of `site`.)
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import tomllib
from bench_kit import parser, save, start

ROOT = Path(__file__).parents[2]


def make_environment(folder: Path, wheel: Path | None) -> str:
    """Make an environment without any package, or with the wheel alone, and return its interpreter."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = str(folder / "bin" / "python")
    if wheel is not None:
        packages = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
        shutil.unpack_archive(wheel, packages, "zip")  # all that installing does with this one: files into place
        # As pip leaves it: compiled.
        subprocess.run([python, "-m", "compileall", "-q", packages], check=True)
    return python


def build_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    return next(folder.glob("llava_vista-*.whl"))


def pack_checkout(folder: Path) -> Path:
    """Return an archive of what the wheel has, without building one: the package, and the start-up files beside it."""
    content = folder / "content"
    shutil.copytree(ROOT / "llava_vista", content / "llava_vista", ignore=shutil.ignore_patterns("__pycache__"))
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in wheel["force-include"].items():
        shutil.copy(ROOT / source, content / target)
    return Path(shutil.make_archive(str(folder / "llava_vista"), "zip", content))


def run(python: str, code: str) -> tuple[float, float]:
    """Return milliseconds of one process: of computing (user and system time), and on the wall."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LLAVA_VISTA", "PYTHON"))}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([python, "-c", code], check=True, env=environment)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), 1000 * wall


def compare(first: tuple[str, str], second: tuple[str, str], rounds: int) -> dict[str, Any]:
    """Run two (interpreter, code) in turn; the differences are second less first, round by round."""
    results = []
    run(*first), run(*second)  # warm up: files into memory
    for number in range(rounds):
        order = (first, second) if number % 2 == 0 else (second, first)
        pair = [run(*arm) for arm in order]
        results.append(pair if number % 2 == 0 else pair[::-1])
    row: dict[str, Any] = {"rounds": rounds}
    for index, clock in enumerate(("computing", "wall")):
        columns = [[pair[arm][index] for pair in results] for arm in (0, 1)]
        differences = sorted(after - before for before, after in zip(*columns, strict=True))
        row[clock] = {
            "ms": [round(statistics.median(column), 3) for column in columns],
            "fastest_ms": [round(min(column), 3) for column in columns],
            "difference_ms": round(statistics.median(differences), 3),
            "quartiles_ms": [round(differences[rounds * part // 4], 3) for part in (1, 3)],
        }
    return row


def inside(python: str, rounds: int) -> dict[str, float]:
    """Return the time that the start-up line takes inside a process that has just started (ms, median)."""
    code = (
        "import sysconfig, sys, time, os; "
        "line = open(os.path.join(sysconfig.get_path('purelib'), 'llava_vista.pth')).read(); "
        "start = time.perf_counter(); exec(line); print(time.perf_counter() - start)"
    )
    values = [float(subprocess.check_output([python, "-c", code], text=True)) for _ in range(rounds)]
    return {"line_ms": round(1000 * statistics.median(values), 4)}


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.set_defaults(device="cpu", rounds=200)
    made.add_argument("--checkout", action="store_true", help="do not build a wheel, copy the package as it is")
    options = made.parse_args(arguments)
    options.device = "cpu"
    start(options)
    rounds = 2 if options.smoke else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        wheel = pack_checkout(Path(folder)) if options.checkout or options.smoke else build_wheel(Path(folder))
        without = make_environment(Path(folder) / "without", None)
        with_it = make_environment(Path(folder) / "with", wheel)
        rows: list[dict[str, Any]] = [
            {
                "what": "python -c pass, installed less not installed",
                **compare((without, "pass"), (with_it, "pass"), rounds),
            },
            {
                "what": "import llava_vista less pass",
                **compare((with_it, "pass"), (with_it, "import llava_vista"), rounds),
            },
            {"what": "the hook's line, timed inside", **inside(with_it, max(3, rounds // 4))},
        ]
    for row in rows:
        print(row)
    save("startup", options, rows)


if __name__ == "__main__":
    main()
