"""The command `llava-vista reproduce train` where things are missing, and its dry run."""

from __future__ import annotations

import sys

import pytest

from llava_vista.cli import main
from llava_vista.tools.reproduce import prerequisites

pytestmark = pytest.mark.environments("latest")


def test_empty_machine_lists_everything_at_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("LLAVA_ROOT", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(prerequisites.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(prerequisites, "imported_at_start", lambda *words: ([], ""))
    monkeypatch.setattr(prerequisites.shutil, "disk_usage", lambda path: type("U", (), {"free": 1e9})())
    words = ["reproduce", "train", "--output", str(tmp_path / "out"), "--gpus", "8"]
    assert main([*words, "--dry-run"]) == 1
    output = capsys.readouterr().out
    labels = [line[6:].split("  ")[0] for line in output.splitlines() if line.startswith("  !!")]
    assert labels == [
        "upstream", "launcher", "packages", "--vista", "GPUs", "disk", "base model", "vision tower",
        "data", "data", "data",
    ]  # fmt: skip
    # 3 seeds x 2 arms x (28 + 80) hours
    assert "12 trainings, 0 of them done; about 648 A100 GPU hours for 12 of the others" in output
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "nothing was trained" in error
    assert all(word in error for word in ("upstream: LLAVA_ROOT", "vicuna-7b", "llava_v1_5_mix665k.json"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--method", "cos"], "unknown VISTA method 'cos'"),
        (["--weight", "-1"], "VISTA weight must be finite and not negative"),
        (["--gpus", "0"], "argument --gpus: 0: expected 1 or more"),
        (["--per-device-batch-size", "-2"], "argument --per-device-batch-size: -2: expected 1 or more"),
        (["--tasks", "gqb"], "--tasks gqb: not among the paper's tasks"),
    ],
)
@pytest.mark.parametrize("action", ["train", "evaluate"])
def test_a_wrong_option_is_refused_before_anything_is_checked(tmp_path, capsys, action, words, named) -> None:
    try:
        code = main(["reproduce", action, "--output", str(tmp_path / "out"), *words, "--dry-run"])
    except SystemExit as ended:  # by argparse
        code = ended.code
    assert code == 2
    said = capsys.readouterr()
    assert named in said.err
    assert not said.out


def test_stage_2_needs_stage_1(tmp_path, capsys) -> None:
    words = ["reproduce", "train", "--output", str(tmp_path), "--stages", "finetune", "--seeds", "1", "--dry-run"]
    assert main([*words, "--root", str(tmp_path)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "seed 1, vista-l2, finetune starts from" in text
    assert "run pretrain first" in text


def test_dry_run_shows_a_command_and_what_differs_in_the_others(tmp_path, capsys) -> None:
    """For LLaVA's own two stages, from scripts written in their manner."""
    for name, batch in (("pretrain", "32"), ("finetune", "16")):
        path = tmp_path / "scripts" / "v1_5" / f"{name}.sh"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"deepspeed llava/train/train_mem.py --per_device_train_batch_size {batch} --data_path x")
    words = ["reproduce", "train", "--output", str(tmp_path / "out"), "--root", str(tmp_path), "--gpus", "4"]
    assert main([*words, "--seeds", "1", "2", "--dry-run"]) == 1
    text = capsys.readouterr().out
    assert text.count("--data_path x") == 2  # a command in full for each stage
    assert text.count(": the same, but") == 2 * 3
    vista = text.partition("seed 1, vista-l2, pretrain: the same, but\n")[2].partition("\n#")[0]
    flags = [line.split()[0] for line in vista.splitlines()]
    assert flags == ["--output_dir", "--vista", "--vista_method", "--vista_weight"]
