"""kill -9 in the middle of a run, and resume as LLaVA's own `train()` does when it finds a checkpoint."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import COMMON, SCRIPT, environment, equal, history, launcher, run, weights

from llava_vista.tools.kit.run_history import describe_parts
from llava_vista.tools.kit.training_folder import read_training

pytestmark = pytest.mark.environments("llava")

STEPS, SAVE = 12, 3
# transformers 4.37 reads its own checkpoints (random state, optimizer) with torch.load, whose default became strict in
# torch 2.6: without this, resuming fails in the host itself.
HOST_NEEDS = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


def command(tower: str, output: Path, *words: str) -> list[str]:
    return [
        *launcher("python"), str(SCRIPT), "--tower", tower, "--output_dir", str(output), "--images_per_row", "102",
        "--per_device_train_batch_size", "2", "--max_steps", str(STEPS), "--logging_steps", "1", "--learning_rate",
        "1e-3", "--save_strategy", "steps", "--save_steps", str(SAVE), *COMMON, *words,
    ]  # fmt: skip


def kill_in_the_middle(words: list[str], output: Path, after: int) -> None:
    """Start a run that pauses after each step, and kill it -9 once checkpoint ``after`` is complete."""
    process = subprocess.Popen(
        words, env=environment(PAUSE="0.4", **HOST_NEEDS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while not (output / f"checkpoint-{after}" / "trainer_state.json").exists():
        if process.poll() is not None or time.time() > deadline:
            raise RuntimeError("the run ended, or hung, before it could be killed")
        time.sleep(0.02)
    time.sleep(random.Random(after).uniform(0.0, 0.9))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (output / "model.safetensors").exists()


@pytest.mark.parametrize("words", [(), ("--vista",)], ids=["host alone", "vista"])
def test_killed_and_resumed_equals_never_killed(tower_path, tmp_path, words: tuple[str, ...]) -> None:
    """The host's own resume is bit-identical here, and with VISTA it still is: weights and log."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(command(tower_path, whole, *words), **HOST_NEEDS)
    kill_in_the_middle(command(tower_path, broken, *words), broken, after=6)
    printed = run(command(tower_path, broken, *words), **HOST_NEEDS)
    assert equal(weights(broken), weights(whole))
    assert history(broken, "loss") == history(whole, "loss")
    assert len(history(whole, "loss")) == STEPS
    assert "other VISTA options" not in printed
    assert ("vista_loss" in history(broken, "loss")[-1]) == bool(words)
    assert not read_training(broken).problems  # record and log of a resumed run belong together


def test_changed_options_are_reported(tower_path, tmp_path) -> None:
    words = ("--vista", "--vista_weight", "0.5")
    run([*command(tower_path, tmp_path, *words), "--max_steps", "3"], **HOST_NEEDS)
    printed = run([*command(tower_path, tmp_path, "--vista", "--vista_method", "cosine")], **HOST_NEEDS)
    assert "resumed with other VISTA options than before: method 'l2' -> 'cosine', weight 0.5 -> 1.0" in printed
    assert json.loads((tmp_path / "vista.json").read_text())["config"]["method"] == "cosine"
    changed, _ = described(tmp_path)
    assert changed == ["at step 3 it was resumed with other options of VISTA: method l2 -> cosine, weight 0.5 -> 1.0"]


def test_baseline_resumed_with_vista_is_reported(tower_path, tmp_path) -> None:
    run([*command(tower_path, tmp_path), "--max_steps", "3"], **HOST_NEEDS)
    printed = run(command(tower_path, tmp_path, "--vista"), **HOST_NEEDS)
    assert "up to here it was trained without VISTA" in printed
    assert described(tmp_path) == (["up to step 3 it was trained without VISTA"], [])


def described(folder: Path) -> tuple[list[str], list[str]]:
    found = read_training(folder)
    assert not found.problems
    return describe_parts(found.record, found.log)
