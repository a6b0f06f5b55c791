"""The reproduction kit without a GPU, data or an upstream: command lines, counts, and what it says is missing."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from llava_vista.cli import main
from llava_vista.errors import ReproduceError
from llava_vista.tools.compare.published import tasks as published_tasks
from llava_vista.tools.reproduce import data, launch, machine, plan, stand_in
from llava_vista.tools.reproduce.checklist import MISSING, OK, Checklist
from llava_vista.tools.reproduce.checkpoints import check_checkpoint, locate
from llava_vista.tools.reproduce.launch import Change, Recorded
from llava_vista.tools.reproduce.published import check_published
from llava_vista.tools.reproduce.recipes import DATA_558K, DATA_665K, LORA, PRETRAIN, RECIPES, Data

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


def upstream(folder: Path, script: str = SCRIPT, program: str = "import sys; print(sys.argv)") -> Path:
    (folder / "some").mkdir(parents=True)
    (folder / "some" / "train.py").write_text(program)
    (folder / "launch.sh").write_text(script)
    return folder


def test_what_a_launch_script_would_run_is_recorded(tmp_path) -> None:
    recorded = launch.record(upstream(tmp_path), "launch.sh", ["a path/with blanks"])
    assert recorded.words[:4] == ("--include", "localhost:4,5", "--master_port", "29501")
    assert recorded.flags == {
        "deepspeed": "./scripts/zero2.json",
        "data_path": "a path/with blanks",
        "vision_tower2": "",
        "mm_vision_select_layer": "-2",
        "output_dir": "/mnt/somebody/else",
        "learning_rate": "2e-3",
    }


def test_flags_are_set_in_place_and_added(tmp_path) -> None:
    recorded = launch.record(upstream(tmp_path), "launch.sh", ["d"])
    change = Change(("ds", "--num_gpus", "8"), {"--output_dir": "out", "--seed": "1"}, ("--deepspeed",), ("--vista",))
    assert recorded.rewritten(change) == [
        "ds", "--num_gpus", "8", "some/train.py", "--data_path", "d", "--vision_tower2", "",
        "--mm_vision_select_layer", "-2", "--output_dir", "out", "--learning_rate", "1e-3", "--learning_rate", "2e-3",
        "--seed", "1", "--vista",
    ]  # fmt: skip
    assert "'' \\\n    --mm_vision" in launch.quoted(recorded.rewritten(change))


def test_a_flag_given_twice_is_set_once() -> None:
    """The last one counts for argparse, and it must be ours."""
    spec = Change(("ds",), {"--a": "3"}).as_json(None)
    words = stand_in.rewrite(["x.py", "--a", "1", "--b", "--a", "2"], spec)
    flags = Recorded(tuple(words[1:])).flags
    assert flags == {"a": "3", "b": ""}


@pytest.mark.parametrize("script", ["exit 3\n", "echo nothing\n", SCRIPT + SCRIPT])
def test_a_script_that_does_something_else_is_refused(tmp_path, script: str) -> None:
    with pytest.raises(ReproduceError, match="expected to call deepspeed once"):
        launch.record(upstream(tmp_path, script), "launch.sh", ["d"])


def test_the_script_is_run_with_the_change(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("LLAVA_VISTA", "1")
    program = "import os, sys; print('GOT', sys.argv[1:], os.environ.get('LLAVA_VISTA')); sys.exit(7)"
    root = upstream(tmp_path / "root", program=program)
    before = (root / "launch.sh").read_bytes()
    seen: list[bytes] = []
    change = Change((sys.executable,), {"--output_dir": "out"}, ("--deepspeed",), ("--vista",))
    code = launch.run(root, "launch.sh", ["d"], change, tmp_path / "log", seen.append)
    assert code == 7
    assert (root / "launch.sh").read_bytes() == before
    (line,) = [line.decode() for line in seen if line.startswith(b"GOT")]
    assert "'--output_dir', 'out'" in line
    assert line.endswith("'--vista'] None")  # the baseline gets no request from outside
    assert line in (tmp_path / "log").read_text()


def test_a_run_that_is_stopped_leaves_no_process(tmp_path) -> None:
    program = (
        "import os, time\nprint(os.getpid(), flush=True)\nprint('tokenization mismatch', flush=True)\ntime.sleep(60)"
    )
    root = upstream(tmp_path, program=program)
    pids: list[int] = []

    def watch(line: bytes) -> None:
        if line.strip().isdigit():
            pids.append(int(line))
        if b"mismatch" in line:
            raise ReproduceError("stop")

    begin = time.monotonic()
    with pytest.raises(ReproduceError, match="stop"):
        launch.run(root, "launch.sh", ["d"], Change((sys.executable,)), tmp_path / "log", watch)
    assert time.monotonic() - begin < 30
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # killed, it stays in the table until whoever inherited it has asked for its status
            os.kill(pids[0], 0)
            time.sleep(0.1)


def settings(tmp_path: Path, name: str = "llava-7b", gpus: int = 8, **more) -> plan.Settings:
    recipe = RECIPES[name]
    return plan.Settings(
        **{
            "recipe": recipe, "root": tmp_path, "output": tmp_path / "out", "data_root": tmp_path / "data",
            "base": recipe.base, "tower": recipe.tower, "seeds": (42, 43), "arms": ("baseline", "vista-l2"),
            "stages": ("pretrain", "finetune"), "gpus": gpus, "per_device": None,
            "flags": ("--vista", "--vista_method", "l2"), **more,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("script", "gpus", "per_device", "expected"),
    [
        (16, 8, None, (16, 1)),
        (16, 4, None, (16, 2)),
        (16, 1, None, (16, 8)),
        (16, 16, None, (8, 1)),
        (16, 8, 4, (4, 4)),
    ],
)
def test_global_batch_size_is_the_published_one(tmp_path, script, gpus, per_device, expected) -> None:
    chosen = settings(tmp_path, gpus=gpus, per_device=per_device)
    stage = chosen.recipe.stage("finetune")
    found = plan.batch(chosen, stage, Recorded(("t.py", "--per_device_train_batch_size", str(script))))
    assert found == expected
    assert found[0] * found[1] * gpus == stage.batch == 128


@pytest.mark.parametrize(("gpus", "per_device"), [(3, None), (7, 16), (256, None)])
def test_global_batch_size_that_cannot_be_reached(tmp_path, gpus, per_device) -> None:
    chosen = settings(tmp_path, gpus=gpus, per_device=per_device)
    recorded = Recorded(("t.py", "--per_device_train_batch_size", "16"))
    with pytest.raises(ValueError, match="global batch size of 128"):
        plan.batch(chosen, chosen.recipe.stage("finetune"), recorded)


def test_arms_differ_by_vista_and_their_folders_only(tmp_path) -> None:
    chosen = settings(tmp_path)
    words = ("t.py", "--per_device_train_batch_size", "16", "--output_dir", "x")
    changes = {str(run): plan.change(chosen, run, Recorded(words)) for run in plan.runs(chosen)}
    assert len(changes) == 2 * 2 * 2
    for stage in ("pretrain", "finetune"):
        baseline, vista = (changes[f"seed 42, {arm}, {stage}"] for arm in chosen.arms)
        assert (baseline.add, vista.add) == ((), chosen.flags)
        differ = {flag for flag in baseline.values if baseline.values[flag] != vista.values[flag]}
        # stage 1 starts from one projector; stage 2 from the arm's own
        assert differ == {"--output_dir"} | ({"--pretrain_mm_mlp_adapter"} if stage == "finetune" else set())
        assert baseline.values["--seed"] == "42"
    folders = {run.folder for run in plan.runs(chosen)}
    assert len(folders) == 8


def test_published_numbers_are_checked(tmp_path) -> None:
    chosen = settings(tmp_path)
    stage = chosen.recipe.stage(PRETRAIN)
    (tmp_path / "zero2.json").write_text('{"zero_optimization": {"stage": 2}}')
    flags = {**{name: f"{value:g}" for name, value in stage.published.items()}, "deepspeed": "zero2.json"}
    flags |= {"per_device_train_batch_size": "32"}

    def check(**other: str) -> Checklist:
        checklist = Checklist()
        words = [word for name, value in {**flags, **other}.items() for word in (f"--{name}", value)]
        check_published(checklist, chosen, stage, Recorded(("t.py", *words)), tmp_path)
        return checklist

    assert not check().problems
    assert "256 = 32 per device x 8 GPUs x 1 accumulated" in check().render()
    (problem,) = check(learning_rate="2e-3", deepspeed="nowhere.json").problems
    assert "learning_rate is 2e-3, published 0.001; ZeRO stage is None, published 2" in problem.text


def test_a_run_that_was_killed_while_saving_is_not_done(tmp_path) -> None:
    chosen = settings(tmp_path)
    finetune = next(run for run in plan.runs(chosen) if run.stage.name == "finetune")
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
    wanted = Data("mix.json", ".", 7, "somewhere")
    samples = [*records(4), *records(2, "ocr_vqa/images"), {"conversations": []}]
    (tmp_path / "mix.json").write_text(json.dumps(samples))
    for sample in samples[1:4]:
        path = tmp_path / sample["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    checklist = Checklist()
    assert data.check_data(checklist, wanted, tmp_path) == samples
    assert [item.mark for item in checklist.items] == [OK, MISSING, MISSING]
    text = " ".join(checklist.render().split())
    assert "mix.json: 7 samples, 1 of them without an image" in text
    assert "coco: 1 of 4 images are not there, for example coco/train2017/0.jpg" in text
    assert "ocr_vqa: 2 of 2 images are not there" in text


@pytest.mark.parametrize("content", ["[{", "{}", '["x"]', "3"])
def test_data_that_was_cut_off(tmp_path, content: str) -> None:
    (tmp_path / "mix.json").write_text(content)
    checklist = Checklist()
    data.check_data(checklist, Data("mix.json", ".", 7, "somewhere"), tmp_path)
    assert checklist.problems


def test_counts_are_those_of_the_published_files() -> None:
    assert DATA_558K.samples == 558_128
    assert DATA_665K.samples == 364_100 + 72_140 + 80_000 + 21_953 + 86_417 + 40_688  # coco gqa ocr_vqa textvqa vg text


def test_checkpoints(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--a--b"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert locate("a/b") is None
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    assert locate("a/b") == snapshot
    (snapshot / "config.json").write_text('{"hidden_size": 8}')
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


def test_empty_machine_lists_everything_at_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("LLAVA_ROOT", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(launch.sys, "executable", "/nowhere/python")
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(machine, "imported_at_start", lambda *words: ([], ""))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("U", (), {"free": 1e9})())
    words = ["reproduce", "train", "--output", str(tmp_path / "out"), "--gpus", "8"]
    assert main([*words, "--dry-run"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  !!")]
    labels = [line[6:].split("  ")[0] for line in lines]
    assert labels == [
        "upstream", "launcher", "packages", "--vista", "GPUs", "disk", "base model", "vision tower",
        "data", "data", "data",
    ]  # fmt: skip
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "nothing was trained" in error
    assert all(word in error for word in ("LLAVA_ROOT", "vicuna-7b", "llava_v1_5_mix665k.json"))
    assert not (tmp_path / "out").exists()


def test_stage_2_needs_stage_1(tmp_path, capsys) -> None:
    words = ["reproduce", "train", "--output", str(tmp_path), "--stages", "finetune", "--seeds", "1", "--dry-run"]
    assert main([*words, "--root", str(tmp_path)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "seed 1, vista-l2, finetune starts from" in text
    assert "run pretrain first" in text


def test_evaluation_of_every_published_task(tmp_path, capsys) -> None:
    words = ["reproduce", "evaluate", "--output", str(tmp_path), "--seeds", "1", "--gpus", "2", "--dry-run"]
    assert main(words) == 1  # no model, no lmms-eval
    text = capsys.readouterr().out
    for task in published_tasks():
        assert text.count(f"--tasks {task} \\\n") == 2, task
    assert "conv_template=vicuna_v1" in text
    assert main([*words, "--model", "tinyllava-3b", "--tasks", "gqa"]) == 1
    text = capsys.readouterr().out
    assert text.count("--model tinyllava") == 2
    assert "conv_mode=phi" in text
    assert main([*words, "--tasks", "gqb"]) == 2
    assert "not among the paper's tasks" in capsys.readouterr().err


def test_lora_is_merged_before_evaluation(tmp_path, capsys) -> None:
    chosen = settings(tmp_path, stages=("pretrain", LORA))
    model = plan.evaluated(chosen, 42, "baseline", chosen.stages)
    assert "llava" in model.name
    assert "lora" not in model.name  # LLaVA's loader would take it for an adapter
    words = ["reproduce", "evaluate", "--output", str(tmp_path / "out"), "--seeds", "42", "--dry-run"]
    model.mkdir(parents=True)
    for name in ("adapter_config.json", "config.json"):
        (model / name).write_text("{}")
    assert main([*words, "--stages", LORA]) == 1
    assert "is an unmerged LoRA adapter" in " ".join(capsys.readouterr().out.split())
