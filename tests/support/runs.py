"""Running the tiny training script as a user would, through any launcher, and reading what it left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
SCRIPT = HERE / "tiny_train.py"
STEPS = 6
BIN = Path(sys.executable).parent
#: What LLaVA's recipes and a run on a CPU have in common.
COMMON = ("--report_to", "none", "--remove_unused_columns", "False", "--seed", "3")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, without a request for VISTA, with the interpreter's programs first on the path."""
    kept = {key: value for key, value in os.environ.items() if key != "LLAVA_VISTA"}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{kept['PATH']}", **more}


def launcher(kind: str) -> list[str]:
    """The command that starts a script: plainly, or on two ranks of this machine."""
    port = str(free_port())
    return {
        "python": [sys.executable],
        "torchrun": [f"{BIN}/torchrun", "--nproc_per_node", "2", "--master_port", port],
        "accelerate": [
            f"{BIN}/accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port,
        ],
        "deepspeed": [f"{BIN}/deepspeed", "--num_gpus", "2", "--master_port", port],
    }[kind]  # fmt: skip


def run(command: list[str], **more: str) -> str:
    """Run it; return what it printed, or raise with the end of it."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**more), timeout=500
    )
    if result.returncode:
        raise RuntimeError(result.stdout[-8000:])
    return result.stdout


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def history(output: Path, *keys: str) -> list[dict]:
    """The log without what differs between any two runs; only records that have all ``keys``."""
    records = json.loads((output / "trainer_state.json").read_text())["log_history"]
    timing = ("runtime", "per_second")
    return [
        {key: value for key, value in record.items() if not any(word in key for word in timing)}
        for record in records
        if all(key in record for key in keys)
    ]


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
