"""scripts/gpu on a CPU at reduced size, the cases that it shares, and that it notices what it looks for."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

GPU = Path(__file__).parents[2] / "scripts" / "gpu"
sys.path.insert(0, str(GPU))

import host_reads  # noqa: E402
import real_parts  # noqa: E402
import results_page  # noqa: E402
import run  # noqa: E402
from cases import make_case  # noqa: E402
from findings import Options  # noqa: E402
from literal import literal_vista  # noqa: E402
from torchvision_stand_in import stand_in  # noqa: E402

from llava_vista import register_estimator  # noqa: E402
from llava_vista.attach.meter import Meter  # noqa: E402
from llava_vista.config import ESTIMATORS  # noqa: E402
from llava_vista.objective import AlignmentTerms  # noqa: E402

pytestmark = pytest.mark.environments("latest")


def test_every_part_runs_at_reduced_size(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    words = ["bash", str(GPU / "run.sh"), "--device", "cpu", "--reduced", "--out", str(tmp_path)]
    ended = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=300, check=False)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    statuses = {row["check"]: row["status"] for row in rows}
    assert ended.returncode == 0, [row for row in rows if row["status"] == "failed"]
    assert {"right", "no-sync", "fast", "real", "cpu", "study"} == {row["part"] for row in rows}
    assert [check for check, status in statuses.items() if status == "not run"] == [
        "device_map over two devices, flash attention", "LLaVA-1.5's own llava.train", "timm tower of the probe",
    ]  # fmt: skip
    assert Counter(statuses.values())["ok"] >= 40
    assert (tmp_path / "results.md").read_text().count("\n| ") == len(rows) + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "results.json", "results.md", "study"]
    assert {"baseline_seed0.json", "l2-0.1_seed0.json"} == {path.name for path in (tmp_path / "study/large").iterdir()}


@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_published_arithmetic_is_the_equation(method: str) -> None:
    """What the objective is timed against gives the same value and gradients, on ragged rows of several images."""
    case = make_case((2, 40, 8), torch.float32, "cpu", trained=True, spans=[(3, 7), (12, 20)], length=33)
    layout = case.layout
    exact, _ = literal_vista(case.inputs_embeds.double(), case.hidden.double(), layout.text, layout.image, method)
    for loss in (case.published, case.ours, case.exact):
        assert loss(method).item() == pytest.approx(exact.item(), abs=1e-6)
    ours, published = case.gradients(case.ours, method), case.gradients(case.published, method)
    assert (ours - published).norm() < 1e-6 * published.norm()


@pytest.mark.parametrize("scale", [1.0, 0.02])
@pytest.mark.parametrize("shape", [(1, 256, 512), (4, 300, 256), (2, 128, 777)])
@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_no_further_from_float64_than_the_published_arithmetic(
    method: str, shape: tuple[int, int, int], scale: float
) -> None:
    """Also where the released code computes in float32: down to the last bit, so over many seeds."""
    ours, published, rounding = 0.0, 0.0, 0.0
    for seed in range(100):
        torch.manual_seed(seed)
        case = make_case(shape, torch.bfloat16, "cpu", trained=False, scale=scale)
        exact = case.exact(method).item()
        ours += abs(case.ours(method).item() / exact - 1)
        published += abs(case.published(method).item() / exact - 1)
        rounding += abs(torch.tensor(exact).item() / exact - 1)
    assert ours <= published
    if method == "l2":  # little is left but the rounding of the result
        assert ours < 1.5 * rounding


@pytest.fixture
def careless() -> Iterator[None]:
    """Two estimators: one reads the device, one makes a tensor on the host beside the device's."""
    register_estimator("reads")(lambda anchors, bag: anchors.sum(dim=1) * anchors.sum().item())
    register_estimator("copies")(lambda anchors, bag: anchors.sum(dim=1) * torch.ones(len(anchors)))
    yield
    for name in ("reads", "copies"):
        ESTIMATORS.remove(name)


@pytest.mark.usefixtures("careless")
def test_reads_and_copies_of_an_estimator_are_noticed() -> None:
    with host_reads.count_waits("cpu") as seen:
        host_reads.objective_and_meter("reads", "cpu")()
    assert len(seen) >= 2 and set(seen) == {"item"}  # of the loss, of the plain mean, and of the texts' scores
    with (
        patch("torch.autocast", lambda **options: contextlib.nullcontext()),
        host_reads.SameDevice(),
        pytest.raises(AssertionError, match=r"cpu.*meta"),
    ):
        host_reads.objective_and_meter("copies", "meta")()


def test_a_read_in_a_step_is_noticed(monkeypatch) -> None:
    add_terms = Meter.add_terms

    def read(meter: Meter, terms: AlignmentTerms, step: int) -> None:
        assert terms.loss.item() > 0
        add_terms(meter, terms, step)

    monkeypatch.setattr(Meter, "add_terms", read)
    for count, batches in (
        (partial(host_reads.count_in_loop, host_reads.SIZES["tiny"]), 1),
        (host_reads.count_in_trainer, 3),
    ):
        waits = count("cpu")
        assert waits[True] - waits[False] == batches


def test_a_part_that_fails_stops_no_other_and_is_told_by_the_exit_code(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "PARTS", {"absent": run.Part("absent", 30), **run.PARTS})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (GPU.parents[1], GPU.parents[1] / "tests" / "support"))))
    words = ["--device", "cpu", "--reduced", "--out", str(tmp_path)]
    assert run.main(["absent", "real", *words]) == 1
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["part"], row["status"]) for row in rows] == [("absent", "failed"), *[("real", "not run")] * 2]


def test_features_of_a_timm_tower(monkeypatch) -> None:
    """With a stand-in for torchvision, which does not go with a CPU build of torch."""
    with stand_in():
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
        words = real_parts.read_tower(Options("cpu", reduced=True, seconds=60))
    assert words.startswith("features to 0e+00")


def test_the_page_is_written_from_the_runs() -> None:
    assert (GPU / "RESULTS.md").read_text() == results_page.make_page(GPU / "results")
    assert not (GPU / "results" / "cuda.json").exists() or "Not run" not in (GPU / "RESULTS.md").read_text()
