"""FSDP on two CPU ranks, in a training loop of our own (a Trainer takes FSDP on accelerators only)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.environments("latest")


def test_gradients_equal_one_process() -> None:
    script = Path(__file__).parents[1] / "support" / "fsdp_train.py"
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:]
    for way in ("FSDP1", "FSDP2"):
        assert result.stdout.count(f"same gradients under {way}") == 2
