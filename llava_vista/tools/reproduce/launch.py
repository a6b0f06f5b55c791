"""An upstream's own launch script, run with other values for some of its flags, or only asked what it would run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ReproduceError
from . import stand_in


@dataclass(frozen=True)
class Change:
    """What is done to the script's command line."""

    launcher: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    add: tuple[str, ...] = ()

    def as_json(self, record: Path | None) -> dict[str, Any]:
        return {
            "launcher": list(self.launcher),
            "set": dict(self.values),
            "drop": list(self.drop),
            "add": list(self.add),
            "record": str(record) if record else None,
        }


@dataclass(frozen=True)
class Recorded:
    """The command line that a launch script would have run."""

    words: tuple[str, ...]

    @property
    def flags(self) -> dict[str, str]:
        """Its flags; the last one counts, as in argparse."""
        given = stand_in.pairs(stand_in.split(self.words)[2])
        return {flag.removeprefix("--"): " ".join(values) for flag, *values in given}

    def rewritten(self, change: Change) -> list[str]:
        return stand_in.rewrite(self.words, change.as_json(None))


@contextmanager
def _environment(change: Change, record: Path | None) -> Iterator[dict[str, str]]:
    """With the stand-in first on PATH; no request for VISTA comes from outside."""
    with tempfile.TemporaryDirectory(prefix="llava-vista-") as name:
        folder = Path(name)
        program = folder / "deepspeed"
        script = Path(stand_in.__file__).resolve()
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"\n')
        program.chmod(0o755)
        spec = folder / "spec.json"
        spec.write_text(json.dumps(change.as_json(record)), encoding="utf-8")
        kept = {key: value for key, value in os.environ.items() if key != "LLAVA_VISTA"}
        path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), kept.get("PATH", "")])
        yield {**kept, "PATH": path, stand_in.VARIABLE: str(spec)}


def record(root: Path, script: str, words: Sequence[str]) -> Recorded:
    """Run the script with a launcher that only writes down what it is given.

    Raises:
        ReproduceError: the script fails, or does not call ``deepspeed`` exactly once.
    """
    with tempfile.TemporaryDirectory(prefix="llava-vista-") as folder:
        path = Path(folder) / "recorded"
        with _environment(Change(launcher=()), path) as environment:
            done = subprocess.run(
                ["bash", script, *words], cwd=root, env=environment, capture_output=True, text=True, check=False
            )
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if done.returncode or len(lines) != 1:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise ReproduceError(
            f"{root / script} was expected to call deepspeed once; it ended with code {done.returncode} after "
            f"{len(lines)} calls{f' ({said})' if said else ''}."
        )
    return Recorded(tuple(json.loads(lines[0])))


def run(
    root: Path, script: str, words: Sequence[str], change: Change, log: Path, watch: Callable[[bytes], None]
) -> int:
    """Run the script for real. What it prints is shown, kept in ``log``, and told to ``watch`` line by line.

    Returns:
        its exit code.
    """
    with _environment(change, None) as environment, open(log, "ab") as file:
        process = subprocess.Popen(
            ["bash", script, *words],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the launcher's ranks end with it
        )
        if process.stdout is None:
            raise ReproduceError("the training process has no output to follow.")
        rest = b""
        try:
            while chunk := os.read(process.stdout.fileno(), 65536):
                file.write(chunk)
                file.flush()
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    watch(line)
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the script and every process that it started."""
    import signal

    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=20)
            return
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def quoted(command: Sequence[str]) -> str:
    """As it could be typed, one flag a line."""
    lines: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--") and lines != [[]]:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n    ".join(" ".join(line) for line in lines)


def find_program(name: str) -> str | None:
    """Beside this Python first: the environment need not be activated."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
