"""The Triton kernels, on a CPU under Triton's interpreter; on a GPU they have not been run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_kernels_equal_pytorch_and_the_equation() -> None:
    """In a process of its own, because the choice of the interpreter is made when Triton is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parent)}
    result = subprocess.run(
        [sys.executable, str(HERE / "triton_rows.py")], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("equal") == 4 + 4 + 2
