"""Commands that are followed, logged, and ended with all of their children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from llava_vista.errors import ReproduceError
from llava_vista.tools.kit.processes import run_logged, tail

pytestmark = pytest.mark.environments("latest")

#: A launcher, here a shell, whose child prints its process id and then runs for a minute.
CHILD = "import os, time; print(os.getpid(), flush=True); print(1, flush=True); time.sleep(60)"
LAUNCHER = ("bash", "-c", f"{sys.executable} -c '{CHILD}'; true")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_output_is_shown_logged_and_passed_on(tmp_path, capfd) -> None:
    log, lines = tmp_path / "log", []
    log.write_text("earlier\n")
    code = run_logged(
        ["sh", "-c", "pwd; echo $NAME >&2; printf '10%%\\r20%%\\rlast'; exit 7"],
        log,
        folder=tmp_path,
        environment={**os.environ, "NAME": "value"},
        on_line=lines.append,
    )
    assert code == 7
    assert lines == [str(tmp_path).encode(), b"value", b"10%\r20%\rlast"]
    said = f"{tmp_path}\nvalue\n10%\r20%\rlast"
    assert capfd.readouterr().out == said
    assert log.read_bytes().decode() == f"earlier\n{said}"
    assert tail(log, 4) == "last"


def test_an_exception_ends_the_command_and_its_children(tmp_path) -> None:
    lines: list[bytes] = []

    def stop(line: bytes) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise ReproduceError("stop")

    begin = time.monotonic()
    with pytest.raises(ReproduceError, match="stop"):
        run_logged(LAUNCHER, tmp_path / "log", on_line=stop)
    assert time.monotonic() - begin < 30
    assert not is_running(int(lines[0]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_command_and_its_children(tmp_path, number: signal.Signals) -> None:
    # A shell's background job inherits an ignored SIGINT, for which Python raises no KeyboardInterrupt.
    program = f"""
        import signal
        from pathlib import Path
        from llava_vista.tools.kit.processes import run_logged
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run_logged({LAUNCHER!r}, Path({str(tmp_path / "log")!r}))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    child = int(process.stdout.readline())
    assert is_running(child)
    process.send_signal(number)
    assert process.wait(timeout=30) != 0
    assert not is_running(child)
