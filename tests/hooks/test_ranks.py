"""Two ranks under the newest Trainer, whose losses are normalised by the tokens of all ranks and micro-batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from stand_in import build

pytestmark = pytest.mark.environments("latest")

SCRIPT = Path(__file__).parents[1] / "support" / "rank_train.py"


def run(output: Path, ranks: int, size: int, k: int) -> tuple[dict, dict]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", str(port)]
    result = subprocess.run(
        [sys.executable, *(torchrun if ranks > 1 else []), str(SCRIPT), str(output), str(size), str(k)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)},
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(result.stdout[-5000:])
    return load_file(output / "weights.safetensors"), json.loads((output / "log.json").read_text())


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> tuple[dict, dict]:
    return run(tmp_path_factory.mktemp("one"), ranks=1, size=4, k=1)


@pytest.mark.parametrize(("size", "k"), [(2, 1), (1, 2)], ids=["2 ranks", "2 ranks, 2 micro-batches"])
def test_two_ranks_equal_one_process(tmp_path, one_process, size: int, k: int) -> None:
    weights, record = run(tmp_path, ranks=2, size=size, k=k)
    expected, wanted = one_process
    start = dict(build().named_parameters())
    scale = max((start[name].detach() - value).abs().max() for name, value in expected.items())
    for name, value in expected.items():
        assert (weights[name] - value).abs().max() <= 1e-5 * scale, name
    assert record["vista_aligned_samples"] == wanted["vista_aligned_samples"] == 4
    for key in ("ce_loss", "vista_loss", "vista_similarity"):
        assert record[key] == pytest.approx(wanted[key], abs=2e-6)
