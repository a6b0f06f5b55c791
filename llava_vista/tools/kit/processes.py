"""Run a command, follow its output, and end every process that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Seconds that a command has to end by itself after SIGTERM.
GRACE = 20.0


def run_logged(
    command: Sequence[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[bytes], None] | None = None,
) -> int:
    """Run a command in a folder, show its output as it comes, append it to ``log``, and return the exit code.

    ``on_line`` gets each line, without its end. An exception in it, Ctrl-C, SIGTERM and SIGHUP end the command with all
    of its children.
    """
    with open(log, "ab") as file, _signals_as_exceptions():
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,  # a question of the command's (a login, say) would wait for ever
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a launcher's ranks join its process group, and are ended with it
        )
        try:
            _follow(process, file, on_line)
            return process.wait()
        except BaseException:
            _end_group(process)
            raise


def tail(log: Path, characters: int = 3000) -> str:
    """Return the end of a log, for the message about a failure."""
    return log.read_text(encoding="utf-8", errors="replace")[-characters:].strip()


def _follow(process: subprocess.Popen[bytes], log: BinaryIO, on_line: Callable[[bytes], None] | None) -> None:
    output, rest = process.stdout.fileno() if process.stdout else -1, b""
    # not line by line: a progress bar ends none
    while chunk := os.read(output, 65536):
        log.write(chunk)
        log.flush()
        sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
        if on_line:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                on_line(line)
    if on_line and rest:
        on_line(rest)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raise SystemExit for SIGTERM and SIGHUP, whose default ends this process and leaves its children running."""
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handler
        yield
        return

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the command's process group: SIGTERM first, SIGKILL for what is left after `GRACE` seconds."""
    deadline = time.monotonic() + GRACE
    try:
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()  # an ended leader that nobody waits for stays in its group
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
