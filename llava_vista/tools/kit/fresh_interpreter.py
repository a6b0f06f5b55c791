"""What the start-up hook does in a new Python process."""

from __future__ import annotations

import os
import subprocess
import sys

from ...config import ENVIRONMENT_VARIABLE

_CODE = "import sys; print(); print(*[name for name in sys.modules if name.split('.')[0] == 'llava_vista'])"


def imported_at_start(value: str | None, *arguments: str) -> tuple[list[str], str]:
    """Start a new Python with ``LLAVA_VISTA=value`` (None: not set) and ``arguments`` on its command line.

    Returns:
        The modules of llava_vista that the start-up hook imported, and the last line of stderr ("" when empty).
    """
    environment = {name: text for name, text in os.environ.items() if name != ENVIRONMENT_VARIABLE}
    if value is not None:
        environment[ENVIRONMENT_VARIABLE] = value
    try:
        command = [sys.executable, "-c", _CODE, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], str(error)
    lines = done.stdout.splitlines()
    complaints = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    complaints = [line for line in complaints if line != "Remainder of file ignored"]  # always the last line of site.py
    return (lines[-1].split() if lines else []), (complaints[-1] if complaints else "")
