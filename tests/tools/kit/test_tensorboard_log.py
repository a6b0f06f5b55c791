"""A training whose only log is TensorBoard's, written by transformers' own callback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig, Trainer, TrainerCallback, TrainingArguments

from llava_vista import cli
from llava_vista.tools.kit.json_files import BadFile
from llava_vista.tools.kit.training_folder import read_training

pytestmark = pytest.mark.environments("latest")


class Line(torch.nn.Module):
    """y = w x; its config is what transformers logs of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = PretrainedConfig(hidden_size=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x - 1).square().mean()}


class VistaKeys(TrainerCallback):
    """Log what a training with VISTA logs."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            logs |= {
                "ce_loss": logs["loss"],
                "loss": logs["loss"] + 0.25,
                "vista_loss": 0.25,
                "vista_aligned_samples": 2,
            }


def train(folder: Path, steps: int, *, with_vista: bool = False, seed: int = 7, resume: str | None = None) -> Path:
    arguments = TrainingArguments(
        str(folder), max_steps=steps, logging_steps=1, save_steps=2, report_to="tensorboard", seed=seed, use_cpu=True,
        per_device_train_batch_size=2, learning_rate=0.01,
    )  # fmt: skip
    trainer = Trainer(Line(), arguments, train_dataset=[{"x": torch.ones(1)}] * 8)
    if with_vista:
        trainer.callback_handler.callbacks.insert(0, VistaKeys())  # before the callback that writes
    trainer.train(resume_from_checkpoint=resume)
    return folder


def only_events(folder: Path, target: Path) -> Path:
    shutil.copytree(folder / "runs", target / "runs")
    return target


def test_the_events_are_the_log(tmp_path) -> None:
    folder = train(tmp_path / "a", 6)
    state = read_training(folder)
    events = read_training(only_events(folder, tmp_path / "b"))
    assert len(events.log) == len(state.log) == 6
    for ours, theirs in zip(events.log, state.log, strict=True):
        assert ours["step"] == theirs["step"]
        assert [ours[key] for key in ("loss", "learning_rate")] == pytest.approx(
            [theirs[key] for key in ("loss", "learning_rate")]
        )
    assert events.seed == 7 and events.logged_arguments["learning_rate"] == 0.01
    assert events.model_config["hidden_size"] == 1
    assert read_training(next((tmp_path / "b" / "runs").iterdir())).log == events.log  # the logging directory itself


def test_a_later_file_counts_from_its_first_step(tmp_path) -> None:
    """A resumed training continues; a new one in the same directory leaves nothing of the old."""
    folder = train(tmp_path / "a", 4)
    for number, path in enumerate((folder / "runs").glob("*/events*")):
        path.rename(path.with_name(f"events.out.tfevents.{number}.host"))  # both would begin in the same second
    train(folder, 6, resume=str(folder / "checkpoint-4"))
    events = read_training(only_events(folder, tmp_path / "b"))
    assert [record["step"] for record in events.log] == [1, 2, 3, 4, 5, 6]
    train(folder, 3)
    assert [record["step"] for record in read_training(only_events(folder, tmp_path / "c")).log] == [1, 2, 3]


def test_compare_takes_directories_of_events(tmp_path, capsys) -> None:
    a = only_events(train(tmp_path / "1", 6), tmp_path / "a")
    b = only_events(train(tmp_path / "2", 6, with_vista=True), tmp_path / "b")
    capsys.readouterr()
    assert cli.main(["compare", str(a), str(b), "--json"]) == 0
    (training,) = json.loads(capsys.readouterr().out)["trainings"]
    assert training["numbers"][0]["change"] == pytest.approx(0, abs=1e-6)
    status = {check["name"]: check["status"] for check in training["settings"]}
    assert status["seed"] == status["learning_rate"] == status["hidden_size"] == "same"
    other = only_events(train(tmp_path / "3", 6, with_vista=True, seed=8), tmp_path / "c")
    assert cli.main(["compare", str(a), str(other)]) == 1
    assert "seed is 7 in the baseline, 8 with VISTA" in capsys.readouterr().out


def test_events_without_a_training_are_named(tmp_path) -> None:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    EventFileWriter(str(tmp_path)).close()
    with pytest.raises(BadFile, match="has no training record"):
        read_training(tmp_path)
