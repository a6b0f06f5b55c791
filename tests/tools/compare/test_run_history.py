"""A run record held against the log beside it by steps and times, and what resumed parts changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from compare_files import write_training

from llava_vista import cli
from llava_vista.tools.compare.comparison import compare
from llava_vista.tools.kit.training_folder import read_training

pytestmark = pytest.mark.environments("latest")

DONE = {
    "run_id": "a1", "started": "2026-01-01T10:00:00+00:00", "first_step": 0,
    "finished": "2026-01-01T11:00:00+00:00", "last_step": 40, "history": [],
}  # fmt: skip
STARTED = {key: value for key, value in DONE.items() if key not in ("finished", "last_step")}


def record(folder: Path, **entries: Any) -> Path:
    """Add entries to a training's record."""
    path = folder / "vista.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
    return folder


def edit_log(folder: Path, edit: Any) -> Path:
    """Change every record of a training's log."""
    path = folder / "trainer_state.json"
    state = json.loads(path.read_text())
    for entry in state["log_history"]:
        edit(entry)
    path.write_text(json.dumps(state))
    return folder


def without_vista(entry: dict[str, Any], until: int) -> None:
    if entry["step"] <= until and "vista_loss" in entry:
        entry["loss"] = entry["ce_loss"]
        for key in [key for key in entry if key.startswith("vista") or key == "ce_loss"]:
            del entry[key]


@pytest.mark.parametrize(
    ("options", "entries"),
    [
        ({}, DONE),
        ({"in_checkpoint": 20}, STARTED),
        ({"in_checkpoint": 20}, {**DONE, "last_step": 60}),  # only a checkpoint was copied
        ({}, {**DONE, "first_step": 20, "history": [STARTED]}),
        ({"max_steps": 80}, STARTED),  # saved by a host that stopped early
    ],
)
def test_a_record_of_the_log_is_believed(tmp_path, options, entries) -> None:
    run = read_training(record(write_training(tmp_path / "a", vista={}, **options), **entries))
    assert not run.problems and run.vista == run.record["config"]


@pytest.mark.parametrize(
    ("options", "entries", "named"),
    [
        ({}, {**DONE, "last_step": 20}, "ended at step 20 (2026-01-01T11:00:00+00:00), and the log's at 40"),
        ({}, {**DONE, "last_step": 60}, "ended at step 60 (2026-01-01T11:00:00+00:00), and the log's at 40"),
        ({"in_checkpoint": 40}, {**DONE, "last_step": 20}, "ended at step 20"),
        ({}, STARTED, "did not end (started 2026-01-01T10:00:00+00:00), and the log is of one that did"),
        (
            {"in_checkpoint": 20},
            {**STARTED, "started": "2126-01-01T10:00:00+00:00"},
            "started 2126-01-01T10:00:00+00:00, and the log was written before",
        ),
    ],
)
def test_a_record_of_another_training_is_named(tmp_path, options, entries, named) -> None:
    run = read_training(record(write_training(tmp_path / "a", vista={}, **options), **entries))
    assert named in run.problems[0] and run.record is None


def test_a_copied_log_is_not_older_than_its_record(tmp_path) -> None:
    folder = record(write_training(tmp_path / "a", vista={}), **DONE)
    os.utime(folder / "trainer_state.json", (0, 0))
    assert "the log was written before, 1970-01-01" in read_training(folder).problems[0]


def test_steps_without_vista_in_the_middle_are_named(tmp_path) -> None:
    """Resumed with VISTA off, in a directory that keeps its record."""
    folder = record(write_training(tmp_path / "a", vista={}), **DONE)
    edit_log(folder, lambda entry: without_vista(entry, until=40) if entry["step"] > 30 else None)
    assert "no vista_loss at steps 31 to 40" in read_training(folder).problems[0]


@pytest.mark.parametrize(
    ("history", "until", "named"),
    [
        ([], 20, "up to step 20 it was trained without VISTA"),
        ([], 0, "up to step 20 it was trained with VISTA's options not recorded"),
        (
            [{**STARTED, "config": {"method": "cosine", "weight": 1.0}}],
            0,
            "at step 20 it was resumed with other options of VISTA: method cosine -> l2",
        ),
    ],
)
def test_a_resumed_training_with_other_options_is_no_arm(tmp_path, history, until, named) -> None:
    base = record(write_training(tmp_path / "a", vista={"weight": 0.0}), **DONE)
    vista = record(
        write_training(tmp_path / "b", vista={}), **{**DONE, "run_id": "b1", "first_step": 20, "history": history}
    )
    edit_log(vista, lambda entry: without_vista(entry, until))
    (training,) = compare([str(base)], [str(vista)]).trainings
    assert training.refusals == [f"{vista}: {named}"]


def test_a_resumed_training_with_other_arguments_is_noted(tmp_path) -> None:
    base = record(write_training(tmp_path / "a", vista={"weight": 0.0}, arguments={}), **DONE)
    vista = record(write_training(tmp_path / "b", vista={}, arguments={}), **{**DONE, "run_id": "b1", "first_step": 20})
    now = json.loads((vista / "vista.json").read_text())
    before = {**now, **STARTED, "training_arguments": {**now["training_arguments"], "dataloader_num_workers": 2}}
    before["training_arguments"]["learning_rate"] = 1e-5
    record(vista, history=[before])
    (training,) = compare([str(base)], [str(vista)]).trainings
    assert not training.refusals
    assert f"{vista}: at step 20 it was resumed with other arguments: learning_rate 1e-05 -> 2e-05" in training.notes


def test_the_report_says_what_was_trained_and_when(tmp_path, capsys) -> None:
    base = record(write_training(tmp_path / "a", vista={"weight": 0.0}, arguments={}), **{**DONE, "run_id": "b1"})
    vista = record(write_training(tmp_path / "b", vista={}, arguments={}), **DONE)
    assert cli.main(["compare", str(base), str(vista)]) == 0
    when = "seed 42, 2026-01-01 10:00 to 2026-01-01 11:00, transformers 4.37.2, torch 2.1.2"
    assert f"VISTA: VISTA l2, weight 1; {vista} ({when})" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["compare", str(base), str(vista), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["arms"][1]["trainings"]
    assert (run["run_id"], run["finished"]) == ("a1", "2026-01-01T11:00:00+00:00")


def test_a_copy_of_a_training_is_no_second_seed(tmp_path) -> None:
    base = [
        record(write_training(tmp_path / f"a{n}", vista={"weight": 0.0}), **{**DONE, "run_id": str(n)})
        for n in range(1, 3)
    ]
    first = record(write_training(tmp_path / "b", vista={}), **DONE)
    shutil.copytree(first, tmp_path / "c")
    result = compare([str(folder) for folder in base], [str(first), str(tmp_path / "c")])
    assert result.trainings[0].refusals == [f"{first} and {tmp_path / 'c'} are one training by run_id and start"]
