"""patches/llava.diff on LLaVA-1.5's own source (from PyPI): it trains as the flag does, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import llava
import pytest
import torch
from runs import environment, equal, history, run

from llava_vista.tools.demo import tiny_checkpoint as checkpoint
from llava_vista.tools.demo.scene_dataset import DataSizes, write_data
from llava_vista.tools.demo.scenes import caption, make_scenes
from llava_vista.tools.demo.tiny_checkpoint import build_tiny_llava

pytestmark = pytest.mark.environments("llava")

REPOSITORY = Path(__file__).parents[2]
LAUNCH = Path(checkpoint.__file__).parent / "launch"
STEPS = ("--max_steps", "4", "--logging_steps", "1", "--save_strategy", "no")
SITE = Path(llava.__file__).parent.parent
FLAGS = ("--vista", "--vista_method", "cosine", "--vista_weight", "0.5")


@pytest.fixture(scope="module")
def variables(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("setup")
    texts = [caption(scene) for scene in make_scenes(50)]
    paths = build_tiny_llava(folder, texts=texts, hidden_size=40, heads=2, layers=2)
    sizes = DataSizes(pretrain_scenes=24, finetune_scenes=4, text_only=1, heldout_questions=1)
    data = write_data(folder / "data", sizes, seed=0, image_size=96)
    return {
        "LANGUAGE_MODEL": str(paths.language_model),
        "VISION_TOWER": str(paths.vision_tower),
        "IMAGE_FOLDER": str(data.images),
        "DATA_PATH": str(data.pretrain),
        "PROJECTOR": str(paths.projector),
        "BATCH_SIZE": "4",
        "LEARNING_RATE": "1e-3",
    }


def apply(repo: Path, *options: str) -> None:
    diff = REPOSITORY / "patches" / "llava.diff"
    # the package on PyPI has no README.md
    subprocess.run(["git", "apply", "--include=*.py", *options, str(diff)], cwd=repo, check=True)


def sources(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def patched(tmp_path_factory) -> Iterator[Path]:
    """LLaVA as it is on PyPI, patched. At the end the reverse is clean, whatever ran there."""
    repo = tmp_path_factory.mktemp("LLaVA")
    shutil.copytree(SITE / "llava", repo / "llava", ignore=shutil.ignore_patterns("__pycache__"))
    apply(repo)
    assert sources(repo / "llava") != sources(SITE / "llava")
    yield repo
    apply(repo, "-R")
    assert sources(repo) == {f"llava/{name}": data for name, data in sources(SITE / "llava").items()}


def train(output: Path, variables: dict[str, str], *words: str, python: str = sys.executable, **more: str) -> str:
    given = {**variables, "OUTPUT_DIR": str(output), "PYTHON": python, **more}
    return run(["bash", str(LAUNCH / "pretrain.sh"), *STEPS, *words], **given)


def projector(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "mm_projector.bin")


def same(left: Path, right: Path) -> bool:
    return history(left) == history(right) and equal(projector(left), projector(right))


def test_patched_source_trains_as_the_flag_does(patched, variables, tmp_path) -> None:
    train(tmp_path / "flag", variables, *FLAGS)
    assert history(tmp_path / "flag", "vista_loss")

    # with the start-up hook active as well: applied once, and one line says so
    printed = train(tmp_path / "both", variables, *FLAGS, PYTHONPATH=f"{patched}:{REPOSITORY}")
    assert printed.count("VISTA is applied once") == 1
    assert printed.count("[llava-vista] VISTA enabled: method=cosine weight=0.5") == 1
    assert same(tmp_path / "both", tmp_path / "flag")

    # the patch alone: no .pth file is processed
    python = tmp_path / "python"
    path = f"{patched}:{SITE}:{REPOSITORY}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    printed = train(tmp_path / "patch", variables, *FLAGS, python=str(python))
    assert "applied once" not in printed
    assert printed.count("[llava-vista] VISTA enabled: method=cosine weight=0.5") == 1
    assert same(tmp_path / "patch", tmp_path / "flag")

    # and without --vista it is the baseline
    train(tmp_path / "off", variables, python=str(python))
    train(tmp_path / "baseline", variables)
    assert same(tmp_path / "off", tmp_path / "baseline")
    assert not same(tmp_path / "off", tmp_path / "flag")


def test_its_own_test_passes(patched) -> None:
    result = subprocess.run(
        [sys.executable, "tests/test_vista.py"], cwd=patched, capture_output=True, text=True,
        env=environment(PYTHONPATH=f"{patched}:{REPOSITORY}"), timeout=300,
    )  # fmt: skip
    assert result.stdout.endswith("ok\n"), result.stderr[-3000:]


@pytest.mark.skipif("LLAVA_ROOT" not in os.environ, reason="LLAVA_ROOT names no git checkout of LLaVA")
def test_its_repository_takes_the_patch() -> None:
    script = REPOSITORY / "scripts" / "check_patches.sh"
    result = subprocess.run(
        ["bash", str(script), f"llava={os.environ['LLAVA_ROOT']}"], capture_output=True, text=True,
        env=environment(PYTHON=sys.executable), timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("ok  llava at") == 3
