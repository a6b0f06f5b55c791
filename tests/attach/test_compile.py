"""torch.compile under the newest Trainer: the same numbers as without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stand_in import StandInAdapter, make_trainer
from tiny_chat import IMAGE, make_model
from transformers import Trainer, TrainingArguments

from llava_vista import install, register_adapter
from llava_vista.adapters import ADAPTERS

pytestmark = pytest.mark.environments("latest")


@pytest.fixture(autouse=True)
def adapter() -> Iterator[None]:
    register_adapter("stand-in")(StandInAdapter)
    yield
    ADAPTERS.remove("stand-in")


def make_stand_in(output: Path, **options) -> Trainer:
    return make_trainer(output, logging_steps=1, max_steps=3, **options)


def make_llava(output: Path, **options) -> Trainer:
    """transformers' own class; a row with an image, and one without."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 15, (2, 24), generator=generator)
    ids[0, 1:17] = IMAGE
    rows = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.where(ids != IMAGE, -100)}]
    rows[0]["pixel_values"] = torch.randn(1, 3, 16, 16, generator=generator)
    arguments = TrainingArguments(
        output_dir=str(output), max_steps=3, logging_steps=1, per_device_train_batch_size=1, report_to=[],
        save_strategy="no", remove_unused_columns=False, disable_tqdm=True, use_cpu=True, seed=0, **options,
    )  # fmt: skip
    return Trainer(make_model(), arguments, train_dataset=rows, data_collator=lambda given: given[0])


@pytest.mark.parametrize(("make", "aligned"), [(make_stand_in, 2), (make_llava, 1)], ids=["stand-in", "Llava"])
def test_compiled_training_has_the_same_log(tmp_path, make, aligned: int) -> None:
    install()
    logs = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = make(tmp_path, **options)
        trainer.train()
        logs.append([record for record in trainer.state.log_history if "loss" in record])
    assert len(logs[0]) == 3
    for plain, compiled in zip(*logs, strict=True):
        assert compiled["vista_aligned_samples"] == plain["vista_aligned_samples"] == aligned
        for key in ("loss", "ce_loss", "vista_loss", "vista_similarity", "grad_norm"):
            assert float(compiled[key]) == pytest.approx(float(plain[key]), abs=1e-4)
