"""A command with a time limit, ended together with everything that it started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

TIMED_OUT = 124


def run_limited(words: Sequence[str], seconds: float, log: Path, **environment: str) -> int:
    """Run a command in a session of its own, its output appended to ``log``, and return its exit code.

    Returns:
        `TIMED_OUT` when it took longer than ``seconds`` and was killed.
    """
    with log.open("a") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
