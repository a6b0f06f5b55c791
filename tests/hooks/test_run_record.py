"""vista.json: an allow-list of the host's arguments, appended on resume, and never the reason that a training stops."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from llava_vista import VistaConfig
from llava_vista.hooks.run_record import RunRecord, report_options


@dataclass
class HostArguments(TrainingArguments):
    mm_projector_lr: float | None = field(default=2e-5)
    eos_token: str = field(default="</s>")
    openai_key: str = field(default="S3CRET")
    notes: str = field(default="S3CRET")
    cache_dir: str = field(default="https://user:S3CRET@store.example/cache?sig=S3CRET")
    odd: Any = field(default=None)


class Odd:
    """Neither str() nor len() of it works."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__

    def __len__(self) -> int:
        raise RuntimeError("no length")


def start(folder: Path, config: VistaConfig | None = None, step: int = 0, dataset: Any = (1, 2, 3), **more: Any) -> Any:
    arguments = HostArguments(str(folder), report_to=[], seed=3, **more)
    trainer = types.SimpleNamespace(
        args=arguments, train_dataset=dataset, state=types.SimpleNamespace(global_step=step)
    )
    handle = types.SimpleNamespace(
        config=config or VistaConfig(), adapter=types.SimpleNamespace(name="llava"), inner=object(), decoder=object()
    )
    return RunRecord(handle, trainer)  # type: ignore[arg-type]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "vista.json").read_text())


def test_numbers_switches_and_known_text_are_kept_and_no_secret(tmp_path: Path) -> None:
    class Dataset(list):
        data_args = types.SimpleNamespace(data_path=str(tmp_path / "mix.json"), image_folder="s3://key:S3CRET@images")

    (tmp_path / "mix.json").write_text("[]")
    deepspeed = {"zero_optimization": {"stage": 3}, "wandb": {"team": "S3CRET"}, "comet": {"api_key": "S3CRET"}}
    record = start(tmp_path, dataset=Dataset([1, 2]), hub_token="S3CRET", lr_scheduler_type="cosine")
    record.content["training_arguments"] = None  # only what was written counts
    kept = read(tmp_path)["training_arguments"]
    assert (kept["seed"], kept["mm_projector_lr"], kept["eos_token"]) == (3, 2e-5, "</s>")
    assert (kept["lr_scheduler_type"], kept["report_to"]) == ("cosine", [])
    assert kept["cache_dir"].startswith("https://...@store.example/cache?...")
    assert read(tmp_path)["data"] == {
        "samples": 2, "data_path": str(tmp_path / "mix.json"), "image_folder": "s3://...@images", "data_bytes": 2,
    }  # fmt: skip
    assert "S3CRET" not in (tmp_path / "vista.json").read_text()

    from llava_vista.hooks.run_record import arguments_record

    arguments = HostArguments(str(tmp_path), report_to=[])
    arguments.deepspeed = deepspeed  # type: ignore[assignment]
    assert arguments_record(arguments)["deepspeed"] == {"zero_optimization": {"stage": 3}}


def test_odd_objects_stop_nothing(tmp_path: Path, caplog) -> None:
    with caplog.at_level("WARNING", logger="llava_vista"):
        start(tmp_path, dataset=Odd(), odd=Odd())
    assert "without the data: reading them failed" in caplog.text
    assert read(tmp_path)["data"] == {} and read(tmp_path)["training_arguments"]["seed"] == 3


def test_a_resumed_run_appends(tmp_path: Path, caplog) -> None:
    start(tmp_path).finish(4)
    first = read(tmp_path)
    assert first["history"] == [] and first["last_step"] == 4 and first["started"] <= first["finished"]
    with caplog.at_level("WARNING", logger="llava_vista"):
        start(tmp_path, VistaConfig(weight=0.5), step=4).finish(8)
    assert "other VISTA options than before: weight 1.0 -> 0.5" in caplog.text
    start(tmp_path, VistaConfig(weight=0.5), step=8)
    last = read(tmp_path)
    assert last["run_id"] == first["run_id"] and "finished" not in last
    assert [(part["first_step"], part["config"]["weight"]) for part in last["history"]] == [(0, 1.0), (4, 0.5)]
    start(tmp_path)  # a new run in the same directory
    assert read(tmp_path)["run_id"] != first["run_id"] and read(tmp_path)["history"] == []


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"config": [1]}', '{"config": null}', '{"config": {}, "history": 3}', "\0"]
)
def test_a_malformed_file_does_not_stop_a_resume(tmp_path: Path, text: str) -> None:
    (tmp_path / "vista.json").write_text(text)
    start(tmp_path, step=2)
    assert read(tmp_path)["first_step"] == 2


def test_trackers_get_the_options_and_cannot_stop_a_training(monkeypatch, caplog) -> None:
    class WandbCallback:
        pass

    class TensorBoardCallback:
        tb_writer = types.SimpleNamespace(add_text=lambda *words: texts.append(words))

    texts: list[tuple[str, str]] = []
    updates: list[dict] = []
    update = lambda options, allow_val_change: updates.append(options)  # noqa: E731
    monkeypatch.setitem(
        sys.modules, "wandb", types.SimpleNamespace(run=object(), config=types.SimpleNamespace(update=update))
    )
    handler = types.SimpleNamespace(callbacks=[TensorBoardCallback()])
    report_options(types.SimpleNamespace(callback_handler=handler), VistaConfig(weight=0.5))
    assert not updates, "a W&B run of the program's own was changed"
    handler.callbacks.append(WandbCallback())
    report_options(types.SimpleNamespace(callback_handler=handler), VistaConfig(weight=0.5))
    assert updates[0]["vista"] is True and updates[0]["vista_weight"] == 0.5
    assert texts[0][0] == "vista" and json.loads(texts[0][1])["vista_method"] == "l2"
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=object(), config=None))
    with caplog.at_level("WARNING", logger="llava_vista"):
        report_options(types.SimpleNamespace(callback_handler=handler), VistaConfig())
    assert "could not be added to the tracker's run" in caplog.text
