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


def in_scratch(folder: Path, code: str, **wanted: list[str]) -> str:
    """Run Python as a host's process is run."""
    (folder / "sitecustomize.py").write_text((HOSTS / "scratch_site.py").read_text(encoding="utf-8"))
    environment = {**os.environ, "PYTHONPATH": str(folder), "HOST_SCRATCH": json.dumps(wanted)}
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
