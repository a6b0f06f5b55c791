"""``llava-vista probe -- COMMAND ARGS``: the host's own training script, with its model measured instead of trained."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from ...errors import ConfigError, ProbeError
from ...hooks.process_signs import PROBE_BATCHES_VARIABLE, PROBE_VARIABLE
from ..kit.json_files import read_object

FILE_NAME = "probe.json"


def measure_in_host(options: argparse.Namespace) -> None:
    """Run the command with `PROBE_VARIABLE` set, and print the means of the record that it writes.

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
    record = read_object(file)
    rows = {
        "information": f"{record['information']:.4f} nats per token ({record['tokens']} tokens)",
        "slope": "n/a" if record["slope"] is None else f"{record['slope']:.2e} nats per token per position",
        "margin": "n/a" if record["margin"] is None else f"{record['margin']:.2e}",
        "own text first": "n/a" if record["margin"] is None
        else f"{record['own_first']:.3f} (chance {record['chance']:.3f})",
    }  # fmt: skip
    print("\n".join(f"{name:16}{text}" for name, text in rows.items()))
    print(f"\nNumbers  {file}")
