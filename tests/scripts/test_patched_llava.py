"""`llava-vista patch` on LLaVA-1.5's own source (from PyPI): it trains as the flag does, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import llava
import pytest
import torch
from runs import environment, equal, history, run

from llava_vista.cli import main
from llava_vista.tools.demo import tiny_checkpoint as checkpoint
from llava_vista.tools.demo.scene_dataset import DataSizes, write_data
from llava_vista.tools.demo.scenes import caption, make_scenes
from llava_vista.tools.demo.tiny_checkpoint import build_tiny_llava

pytestmark = pytest.mark.environments("llava")

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


@pytest.fixture(scope="module")
def patched(tmp_path_factory) -> Path:
    """A checkout with LLaVA's package as it is on PyPI, patched."""
    repo = tmp_path_factory.mktemp("LLaVA")
    shutil.copytree(SITE / "llava", repo / "llava", ignore=shutil.ignore_patterns("__pycache__"))
    assert main(["patch", "apply", "--repo", str(repo)]) == 0
    return repo


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

    # with the start-up hook live as well: once, and said
    printed = train(tmp_path / "both", variables, *FLAGS, PYTHONPATH=str(patched))
    assert printed.count("VISTA is applied once") == 1
    assert printed.count("[llava-vista] VISTA enabled: method=cosine weight=0.5") == 1
    assert same(tmp_path / "both", tmp_path / "flag")

    # the patch alone: no .pth file is processed
    python = tmp_path / "python"
    path = f"{patched}:{SITE}:{Path(__file__).parents[2]}"
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
        env=environment(PYTHONPATH=str(patched)), timeout=300,
    )  # fmt: skip
    assert result.stdout.endswith("ok\n"), result.stderr[-3000:]


def test_reverse_gives_the_published_files_back(tmp_path) -> None:
    repo = tmp_path / "LLaVA"
    shutil.copytree(SITE / "llava" / "train", repo / "llava" / "train", ignore=shutil.ignore_patterns("__pycache__"))
    assert main(["patch", "apply", "--repo", str(repo)]) == 0
    file = Path("llava/train/train.py")
    assert (repo / file).read_bytes() != (SITE / file).read_bytes()
    assert main(["patch", "reverse", "--repo", str(repo)]) == 0
    assert (repo / file).read_bytes() == (SITE / file).read_bytes()
