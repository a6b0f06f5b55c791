"""The reproduction without a GPU, data or an upstream: commands, counts, and what is named as missing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llava_vista.cli import main
from llava_vista.errors import ReproduceError
from llava_vista.tools.kit.published_scores import published_tasks
from llava_vista.tools.kit.report import OK, WRONG, Checklist
from llava_vista.tools.reproduce import training_inputs, training_sequence
from llava_vista.tools.reproduce.launch_script import LaunchScript, quoted, read_flags
from llava_vista.tools.reproduce.planned_trainings import (
    PlannedTraining,
    ReproduceSettings,
    global_batch,
    planned_trainings,
)
from llava_vista.tools.reproduce.prerequisites import check_published
from llava_vista.tools.reproduce.recipes import FINETUNE, LORA, PRETRAIN, RECIPES, TrainingSet
from llava_vista.tools.reproduce.training_inputs import check_checkpoint, locate

pytestmark = pytest.mark.environments("latest")

SCRIPT = """#!/bin/bash
deepspeed --include localhost:4,5 --master_port 29501 some/train.py \\
    --deepspeed ./scripts/zero2.json \\
    --data_path  "$1" \\
    --vision_tower2 "" \\
    --mm_vision_select_layer -2 \\
    --output_dir=/mnt/somebody/else \\
    --learning_rate 1e-3 --learning_rate 2e-3
"""


def upstream(folder: Path, script: str = SCRIPT, program: str = "import sys; print(sys.argv)") -> LaunchScript:
    (folder / "some").mkdir(parents=True)
    (folder / "some" / "train.py").write_text(program)
    (folder / "launch.sh").write_text(script)
    return LaunchScript(folder, "launch.sh", ("a path/with blanks",))


def test_command_of_a_launch_script_is_recorded(tmp_path) -> None:
    command = upstream(tmp_path).record()
    assert command[:3] == ["some/train.py", "--deepspeed", "./scripts/zero2.json"]
    assert read_flags(command) == {
        "deepspeed": "./scripts/zero2.json",
        "data_path": "a path/with blanks",
        "vision_tower2": "",
        "mm_vision_select_layer": "-2",
        "output_dir": "/mnt/somebody/else",
        "learning_rate": "2e-3",
    }
    assert read_flags([*command, "--deepspeed", "", "--output_dir", "ours"])["output_dir"] == "ours"
    assert "'' \\\n    --mm_vision" in quoted(command)


@pytest.mark.parametrize("script", ["exit 3\n", "echo nothing\n", SCRIPT + SCRIPT, "deepspeed --help\n"])
def test_a_script_that_does_something_else_is_refused(tmp_path, script: str) -> None:
    with pytest.raises(ReproduceError, match="expected to call deepspeed once"):
        upstream(tmp_path, script).record()


def test_the_script_is_run_with_our_values_appended(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("LLAVA_VISTA", "1")
    program = """
import argparse, os, shutil, sys
parser = argparse.ArgumentParser()
for flag in ("deepspeed", "data_path", "vision_tower2", "output_dir"):
    parser.add_argument(f"--{flag}")
parser.add_argument("--mm_vision_select_layer", type=int)
parser.add_argument("--learning_rate", type=float)
parser.add_argument("--vista", action="store_true")
print("GOT", vars(parser.parse_args()), os.environ.get("LLAVA_VISTA"), shutil.which("deepspeed"))
sys.exit(7)
"""
    script = upstream(tmp_path / "root", program=program)
    before = (tmp_path / "root" / "launch.sh").read_bytes()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    seen: list[bytes] = []
    ours = ["--deepspeed", "", "--output_dir", "o'ur $1", "--learning_rate", "5e-4", "--vista"]
    assert script.run([sys.executable], ours, tmp_path / "log", seen.append) == 7
    assert (tmp_path / "root" / "launch.sh").read_bytes() == before
    (line,) = [line.decode() for line in seen if line.startswith(b"GOT")]
    values = {
        "deepspeed": "", "data_path": "a path/with blanks", "vision_tower2": "", "output_dir": "o'ur $1",
        "mm_vision_select_layer": -2, "learning_rate": 5e-4, "vista": True,
    }  # fmt: skip
    # no request from outside reaches the baseline, and the stand-in is not on the PATH of what it starts
    assert line.startswith(f"GOT {values} None ")
    assert "llava-vista-" not in line
    assert line in (tmp_path / "log").read_text()


def test_a_training_that_reports_mismatches_is_stopped(tmp_path, monkeypatch) -> None:
    program = "import time\nprint('tokenization mismatch\\n' * 200, flush=True)\ntime.sleep(60)"
    upstream(tmp_path, program=program)
    chosen = settings(tmp_path, gpus=1)
    monkeypatch.setattr(training_sequence, "launcher", lambda _: [sys.executable])
    monkeypatch.setattr(training_sequence, "_make_projector", lambda *_: None)
    stage = replace(chosen.recipe.stages[PRETRAIN], script="launch.sh", words=("d",))
    run = PlannedTraining(chosen, stage, "baseline", 42)
    with pytest.raises(ReproduceError, match="seed 42, baseline, pretrain: stopped after 101 lines"):
        training_sequence._train_one(run, ["t.py", "--per_device_train_batch_size", "16"])


def settings(tmp_path: Path, name: str = "llava-7b", gpus: int = 8, **more) -> ReproduceSettings:
    recipe = RECIPES[name]
    return ReproduceSettings(
        **{
            "recipe": recipe, "root": tmp_path, "output": tmp_path / "out", "data_root": tmp_path / "data",
            "base": recipe.base, "tower": recipe.tower, "seeds": (42, 43), "arms": ("baseline", "vista-l2"),
            "stages": ("pretrain", "finetune"), "gpus": gpus, "per_device": None,
            "flags": {"--vista": "True", "--vista_method": "l2"}, **more,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "per_device", "expected"),
    [(8, None, (16, 1)), (4, None, (16, 2)), (1, None, (16, 8)), (16, None, (8, 1)), (8, 4, (4, 4))],
)
def test_global_batch_size_is_the_published_one(tmp_path, gpus, per_device, expected) -> None:
    chosen = settings(tmp_path, gpus=gpus, per_device=per_device)
    stage = chosen.recipe.stages[FINETUNE]
    found = global_batch(chosen, stage, ["t.py", "--per_device_train_batch_size", "16"])
    assert found == expected
    assert found[0] * found[1] * gpus == stage.batch == 128


@pytest.mark.parametrize(("gpus", "per_device"), [(3, None), (7, 16), (256, None)])
def test_global_batch_size_that_cannot_be_reached(tmp_path, gpus, per_device) -> None:
    chosen = settings(tmp_path, gpus=gpus, per_device=per_device)
    with pytest.raises(ValueError, match="global batch size of 128"):
        global_batch(chosen, chosen.recipe.stages[FINETUNE], ["t.py", "--per_device_train_batch_size", "16"])


def test_arms_differ_by_vista_and_their_folders_only(tmp_path) -> None:
    chosen = settings(tmp_path)
    command = ["t.py", "--per_device_train_batch_size", "16", "--output_dir", "x"]
    values = {str(run): run.appended(command) for run in planned_trainings(chosen)}
    assert len(values) == 2 * 2 * 2
    for stage in ("pretrain", "finetune"):
        baseline, vista = (values[f"seed 42, {arm}, {stage}"] for arm in chosen.arms)
        assert not set(chosen.flags) & set(baseline)
        differ = {flag: value for flag, value in vista.items() if baseline.get(flag) != value}
        # stage 1 starts from one projector; stage 2 from the arm's own
        own = {"--output_dir"} | ({"--pretrain_mm_mlp_adapter"} if stage == "finetune" else set())
        assert set(differ) == own | set(chosen.flags)
        assert baseline["--seed"] == "42"
    assert len({run.folder for run in planned_trainings(chosen)}) == 8


def test_published_numbers_are_checked(tmp_path) -> None:
    chosen = settings(tmp_path)
    stage = chosen.recipe.stages[PRETRAIN]
    (tmp_path / "zero2.json").write_text('{"zero_optimization": {"stage": 2}}')
    flags = {**{name: f"{value:g}" for name, value in stage.published.items()}, "deepspeed": "zero2.json"}
    flags |= {"per_device_train_batch_size": "32"}

    def check(**other: str) -> Checklist:
        checklist = Checklist()
        words = [word for name, value in {**flags, **other}.items() for word in (f"--{name}", value)]
        check_published(checklist, chosen, stage, ["t.py", *words])
        return checklist

    assert not check().problems
    assert any("256 = 32 per device x 8 GPUs x 1 accumulated" in line.text for line in check().lines)
    (problem,) = check(learning_rate="2e-3", deepspeed="nowhere.json").problems
    assert "learning_rate is 2e-3, published 0.001; ZeRO stage is None, published 2" in problem.text


def test_a_run_that_was_killed_while_saving_is_not_done(tmp_path) -> None:
    finetune = next(run for run in planned_trainings(settings(tmp_path)) if run.stage.name == "finetune")
    finetune.folder.mkdir(parents=True)
    for name, text, done in (
        ("trainer_state.json", "{}", False),
        ("config.json", '{"a": 1}', False),
        ("model-00001-of-00002.safetensors", "", False),
        ("model-00002-of-00002.safetensors", "", False),
        ("model.safetensors.index.json", '{"weight_map": {"x": "model-00002-of-00002.safetensors"}}', True),
    ):
        (finetune.folder / name).write_text(text)
        assert finetune.is_done == done, name


def records(count: int, folder: str = "coco/train2017") -> list[dict]:
    return [{"image": f"{folder}/{number}.jpg", "conversations": []} for number in range(count)]


def test_data_is_counted_and_every_missing_file_found(tmp_path) -> None:
    wanted = TrainingSet("mix.json", ".", 7, "somewhere")
    samples = [*records(4), *records(2, "ocr_vqa/images"), {"conversations": []}]
    (tmp_path / "mix.json").write_text(json.dumps(samples))
    for sample in samples[1:4]:
        path = tmp_path / sample["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    checklist = Checklist()
    assert training_inputs.check_data(checklist, wanted, tmp_path) == samples
    assert [line.mark for line in checklist.lines] == [OK, WRONG, WRONG]
    text = " ".join(line.text for line in checklist.lines)
    assert "mix.json: 7 samples, 1 of them without an image" in text
    assert "coco: 1 of 4 images are not there, for example coco/train2017/0.jpg" in text
    assert "ocr_vqa: 2 of 2 images are not there" in text


@pytest.mark.parametrize("content", ["[{", "{}", '["x"]', "3"])
def test_data_that_was_cut_off(tmp_path, content: str) -> None:
    (tmp_path / "mix.json").write_text(content)
    checklist = Checklist()
    training_inputs.check_data(checklist, TrainingSet("mix.json", ".", 7, "somewhere"), tmp_path)
    assert checklist.problems


def test_counts_are_those_of_the_published_files() -> None:
    stages = RECIPES["llava-7b"].stages
    assert stages[PRETRAIN].data.samples == 558_128
    assert (
        stages[LORA].data.samples == 364_100 + 72_140 + 80_000 + 21_953 + 86_417 + 40_688
    )  # coco gqa ocr_vqa textvqa vg text


def test_checkpoints(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--a--b"
    (snapshot := folder / "snapshots" / "abc").mkdir(parents=True)
    assert locate("a/b") is None
    assert locate("/no/such/folder") is None
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text('{"hidden_size": 8}')
    assert locate("a/b") == snapshot
    index = {"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "one.safetensors").touch()
    checklist = Checklist()
    check_checkpoint(checklist, "base", "a/b")
    assert "lacks weights: two.safetensors" in checklist.problems[0].text
    (snapshot / "two.safetensors").touch()
    checklist = Checklist()
    check_checkpoint(checklist, "base", "a/b")
    assert not checklist.problems


def test_evaluation_of_every_published_task(tmp_path, capsys) -> None:
    words = ["reproduce", "evaluate", "--output", str(tmp_path), "--seeds", "1", "--gpus", "2"]
    assert main([*words, "--dry-run"]) == 1  # no model, no lmms-eval
    text = capsys.readouterr().out
    assert text.count("0 tasks are done, to do: " + " ".join(published_tasks())) == 2  # both arms
    assert text.count("--model llava \\\n") == 1  # one command in full
    assert "conv_template=vicuna_v1" in text
    assert main([*words, "--dry-run", "--model", "tinyllava-3b", "--tasks", "gqa"]) == 1
    text = capsys.readouterr().out
    assert "--model tinyllava" in text
    assert "conv_mode=phi" in text
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "lmms-eval: not installed here" in error
    assert "model: " in error
    assert main([*words, "--stages", "pretrain"]) == 2
    assert "trains no model to evaluate" in capsys.readouterr().err


def test_dry_run_shows_a_command_though_the_first_model_is_done(tmp_path, capsys) -> None:
    """An evaluation that was cut off: what is left to do is that of later models."""
    done = settings(tmp_path).evaluated_model(42, "baseline")
    result = done.with_name(f"lmms-eval-{done.name}") / "x" / "20250101_000000_results.json"
    result.parent.mkdir(parents=True)
    result.write_text(json.dumps({"results": {"gqa": {"exact_match,none": 0.5}}, "config": {"model": "llava"}}))
    words = ["reproduce", "evaluate", "--output", str(tmp_path / "out"), "--seeds", "42", "--tasks", "gqa", "--dry-run"]
    assert main(words) == 1  # no model
    text = capsys.readouterr().out
    assert "1 tasks are done, to do: nothing" in text
    assert text.count("--tasks gqa") == text.count("--model llava \\\n") == 1


def test_lora_is_merged_before_evaluation(tmp_path, capsys) -> None:
    model = settings(tmp_path, stages=("pretrain", LORA)).evaluated_model(42, "baseline")
    assert "llava" in model.name
    assert "lora" not in model.name  # LLaVA's loader would take it for an adapter
    words = ["reproduce", "evaluate", "--output", str(tmp_path / "out"), "--seeds", "42", "--dry-run"]
    model.mkdir(parents=True)
    for name in ("adapter_config.json", "config.json"):
        (model / name).write_text("{}")
    assert main([*words, "--stages", LORA]) == 1
    assert "is an unmerged LoRA adapter" in " ".join(capsys.readouterr().out.split())
