"""``llava-vista probe -- COMMAND ARGS``: the host's own training script, with its model measured instead of trained."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from ...errors import ConfigError, ProbeError
from ...hooks.process_signs import PROBE_BATCHES_VARIABLE, PROBE_VARIABLE
from ..kit.json_files import read_object
from .record_comparison import compare

FILE_NAME = "probe.json"


def measure_in_host(options: argparse.Namespace) -> None:
    """Run the command with `PROBE_VARIABLE` set, and show the record that it writes.

    Raises:
        ConfigError: checkpoints were given too.
        ProbeError: the command failed, or wrote no record.
    """
    if options.checkpoints:
        raise ConfigError("checkpoints and a command were given: measure the one or the other.")
    output = Path(options.output).resolve()
    file = output / FILE_NAME
    before = file.stat().st_mtime_ns if file.exists() else None
    variables = {PROBE_VARIABLE: str(output), PROBE_BATCHES_VARIABLE: str(options.batches)}
    code = subprocess.run(options.command, env={**os.environ, **variables}, check=False).returncode
    if code:
        raise ProbeError(f"the command ended with exit code {code}; its own messages say why.")
    if not file.exists() or file.stat().st_mtime_ns == before:
        raise ProbeError(
            f"the command ended without writing {file}: no transformers.Trainer was trained in it, or llava-vista is "
            "not installed in its environment (llava-vista doctor)."
        )
    compare([("model", read_object(file))], options)
    print(f"Samples  {file}")
