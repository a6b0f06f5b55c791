"""What scripts/hosts says and refuses, without any host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HOSTS = Path(__file__).parents[2] / "scripts" / "hosts"
RUN = HOSTS / "run.sh"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(RUN), *words],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )


def test_list_names_the_ten() -> None:
    done = run("--list")
    assert done.returncode == 0
    names = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert names == {
        "LLaVA", "LLaVA-NeXT", "TinyLLaVA_Factory", "Bunny", "MoE-LLaVA", "Video-LLaVA", "ShareGPT4V", "VILA", "CAL",
        "VIRAL",
    }  # fmt: skip


def test_bad_calls(tmp_path: Path) -> None:
    for words, message in (
        ([], "run.sh NAME CHECKOUT"),
        (["LLaVA"], "run.sh NAME CHECKOUT"),
        (["LLaVA", str(tmp_path / "nowhere")], "nowhere"),
        (["Nobody", str(tmp_path)], "invalid choice: 'Nobody'"),
    ):
        done = run(*words)
        assert done.returncode != 0
        assert message in done.stderr


def in_scratch(folder: Path, code: str, environment: dict[str, str] | None = None, **wanted: list[str]) -> str:
    """Run Python as a host's process is run."""
    (folder / "sitecustomize.py").write_text((HOSTS / "scratch_site.py").read_text(encoding="utf-8"))
    more = {"PYTHONPATH": str(folder), "HOST_SCRATCH": json.dumps(wanted), **(environment or {})}
    environment = {**os.environ, **more}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=environment)
    return done.stdout + done.stderr


def test_placeholders_may_be_named_but_not_used(tmp_path: Path) -> None:
    code = (
        "from nowhere.ops import Thing\nimport nowhere.deeper as deeper\n"
        "class Mine(Thing): ...\n"
        "print('named', Mine().attribute.more, deeper.Other(1).value)\n"
        "Thing()(1, 2)\n"
    )
    found = in_scratch(tmp_path, code, placeholders=["nowhere"])
    assert found.startswith("named")
    assert "RuntimeError: nowhere.ops is a placeholder in this run" in found
    assert "No module named 'nowhere'" in in_scratch(tmp_path, code)


def test_fixes_act_only_when_asked_for(tmp_path: Path) -> None:
    code = (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int = 1\n"
        "@dataclasses.dataclass\nclass B:\n    a: A = A()\nprint('made', B().a.x)\n"
    )
    assert "made 1" in in_scratch(tmp_path, code, fixes=["dataclass-defaults"])
    if sys.version_info >= (3, 11):
        assert "mutable default" in in_scratch(tmp_path, code)
    seeded = "import torch; print(torch.rand(1).item())"
    assert in_scratch(tmp_path, seeded, fixes=["seed"]) == in_scratch(tmp_path, seeded, fixes=["seed"])


def test_batches_of_a_training_are_recorded_and_read_back(tmp_path: Path) -> None:
    """One row with an image, one without: with a dummy picture in its place, or with none (VILA)."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").touch()
    trainer = "class Trainer:\n    def _prepare_inputs(self, inputs):\n        return 'given on', inputs\n"
    (tmp_path / "transformers" / "trainer.py").write_text(trainer)
    (tmp_path / "batches").mkdir()
    code = (
        "import torch\nfrom transformers.trainer import Trainer\n"
        "ids = torch.tensor([[1, 2, 3, 0], [1, -200, 5, 6]])\n"
        "batch = {'input_ids': ids, 'labels': ids * 2, 'attention_mask': ids != 0}\n"
        "pictures = torch.arange(2)[:, None].float()\n"
        "Trainer()._prepare_inputs({**batch, 'images': pictures})\n"
        "print(Trainer()._prepare_inputs({**batch, 'media': {'image': [pictures[1]]}})[0])\n"
        "print(Trainer()._prepare_inputs({'nothing': 1}))\n"
    )
    told = in_scratch(tmp_path, code, {"HOST_BATCHES": str(tmp_path / "batches")})
    assert told.splitlines() == ["given on", "('given on', {'nothing': 1})"]
    sys.path.insert(0, str(HOSTS))
    try:
        from probe import rows_of_training
    finally:
        sys.path.remove(str(HOSTS))
    rows = rows_of_training(tmp_path / "batches", -200)
    assert [(ids.tolist(), labels.tolist(), pixels.tolist()) for ids, labels, pixels in rows] == [
        ([1, -200, 5, 6], [2, -400, 10, 12], [1.0])
    ] * 2
