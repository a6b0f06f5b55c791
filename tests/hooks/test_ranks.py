"""Two ranks under the newest Trainer, whose losses are normalised by the tokens of all ranks and micro-batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from literal import literal_own_text
from safetensors.torch import load_file
from stand_in import IMAGE_LABEL, IMAGE_TOKEN, PATCHES, Rows, build, collate

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
        env={**os.environ, "OMP_NUM_THREADS": "1", 
             "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(result.stdout[-5000:])
    return load_file(output / "weights.safetensors"), json.loads((output / "log.json").read_text())


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> tuple[dict, dict]:
    return run(tmp_path_factory.mktemp("one"), ranks=1, size=4, k=1)


def own_text(first: int, stop: int) -> tuple[float, ...]:
    """Margin, own first and chance of these rows before the first step, in one forward."""
    batch, model = collate([Rows()[number] for number in range(first, stop)]), build().double()
    ids, images = batch["input_ids"], batch["images"].double()
    with torch.no_grad():
        _, _, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
            ids, batch["attention_mask"], None, ids.clone(), images
        )
        hidden = model.model(inputs_embeds=embeds).last_hidden_state
    kind = (labels == IMAGE_LABEL).long()
    at = (ids[0] == IMAGE_TOKEN).nonzero()[0, 0]
    spread = torch.cat([ids[:, :at], ids[:, at : at + 1].clamp(min=0).expand(-1, PATCHES), ids[:, at + 1 :]], dim=1)
    return literal_own_text("l2", spread, embeds, hidden, kind)[:3]


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
    # Ranks do not widen the batch: each compares its own samples, and one sample alone compares with nothing.
    keys = ("vista_margin", "vista_own_first", "vista_own_first_chance")
    assert [wanted[key] for key in keys] == pytest.approx(own_text(0, 4), abs=1e-6)
    if size == 1:
        assert not set(keys) & set(record)
    else:
        pairs = zip(own_text(0, 2), own_text(2, 4), strict=True)
        assert [record[key] for key in keys] == pytest.approx([sum(pair) / 2 for pair in pairs], abs=1e-6)
