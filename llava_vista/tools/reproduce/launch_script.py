"""An upstream's own launch script, run unmodified, with values appended to the command that it starts.

The script calls ``deepspeed [launcher's options] some/train.py FLAGS``. A stand-in for ``deepspeed``, first on PATH,
starts this machine's launcher with the same training script and flags, and appends ours. argparse takes the last of two
flags, so ours count. A dry run is the same with a launcher that writes the command down.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ...config import ENVIRONMENT_VARIABLE
from ...errors import ReproduceError
from ..kit.processes import run_logged

_STAND_IN = """#!/bin/sh
PATH={path}
while [ $# -gt 0 ]; do
  case $1 in *.py) exec {launcher} "$@" {appended};; esac
  shift
done
echo "no training script (*.py) among the arguments of deepspeed" >&2
exit 64
"""
_RECORDER = "import json, sys; print(json.dumps(sys.argv[2:]), file=open(sys.argv[1], 'a'))"


class LaunchScript(NamedTuple):
    """A launch script of the checkout ``root``, with its arguments."""

    root: Path
    script: str
    words: Sequence[str] = ()

    def record(self) -> list[str]:
        """Return the script's command without its launcher: the training script and its flags.

        Raises:
            ReproduceError: the script fails, or does not call ``deepspeed`` exactly once.
        """
        command = ["bash", self.script, *self.words]
        with tempfile.TemporaryDirectory(prefix="llava-vista-") as folder:
            path = Path(folder, "commands")
            with _stand_in([sys.executable, "-c", _RECORDER, str(path)]) as environment:
                done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
            commands = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if done.returncode or len(commands) != 1:
            said = (done.stderr or done.stdout).strip()[-500:]
            raise ReproduceError(
                f"{self.root / self.script} was expected to call deepspeed once. It ended with code {done.returncode} "
                f"after {len(commands)} calls{f' ({said})' if said else ''}. Is this another version of the script?"
            )
        return list(json.loads(commands[0]))

    def run(self, launcher: Sequence[str], appended: Sequence[str], log: Path, on_line: Callable[[bytes], None]) -> int:
        """Run the script, and return its exit code. See `run_logged` for ``log`` and ``on_line``."""
        command = ["bash", self.script, *self.words]
        with _stand_in(launcher, appended) as environment:
            return run_logged(command, log, folder=self.root, environment=environment, on_line=on_line)


@contextmanager
def _stand_in(launcher: Sequence[str], appended: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Yield an environment whose ``deepspeed`` is the stand-in, and in which only the appended flags enable VISTA."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_VARIABLE)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    with tempfile.TemporaryDirectory(prefix="llava-vista-") as folder:
        text = _STAND_IN.format(path=shlex.quote(path), launcher=shlex.join(launcher), appended=shlex.join(appended))
        program = Path(folder, "deepspeed")
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
        yield {**kept, "PATH": f"{folder}{os.pathsep}{path}"}


def read_flags(command: Sequence[str]) -> dict[str, str]:
    """Return a command's flags without their dashes. As in argparse, the last of two counts."""
    flags: dict[str, str] = {}
    name = ""
    for word in command:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name] = value
        elif name:
            flags[name] = f"{flags[name]} {word}".strip()
    return flags


def quoted(command: Sequence[str]) -> str:
    """Return a command as it can be typed, one flag a line."""
    lines: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--") and lines != [[]]:
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(map(shlex.join, lines))


def find_program(name: str) -> str | None:
    """Return a program's path, beside this Python first: the environment need not be activated."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
