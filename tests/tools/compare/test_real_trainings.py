"""Folders that transformers' own Trainer writes, 4.37 and 5.x: what was trained, in which folder, and what differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from native_models import FAMILIES, LLAVA
from transformers import Trainer, TrainingArguments

from llava_vista import VistaConfig, install, uninstall
from llava_vista.tools.compare.comparison import Comparison, compare
from llava_vista.tools.compare.training_conditions import DIFFERS, SAME

pytestmark = pytest.mark.environments("latest", "llava", "older")
STEPS = 6


class Rows(torch.utils.data.Dataset):
    """One image and some text in each row."""

    def __len__(self) -> int:
        return 2 * STEPS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return FAMILIES[LLAVA].batch(images=(1,), seed=index)


def collate(rows: list[dict]) -> dict:
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def train(folder: Path, config: VistaConfig | None, **options) -> str:
    """Train a tiny Llava into a folder, with VISTA or without."""
    torch.manual_seed(0)
    if config:
        install(config)
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder), "max_steps": STEPS, "logging_steps": 1, "per_device_train_batch_size": 2,
            "learning_rate": 0.01, "save_strategy": "no", "report_to": [], "remove_unused_columns": False,
            "disable_tqdm": True, "use_cpu": True, **options,
        }
    )  # fmt: skip
    trainer = Trainer(FAMILIES[LLAVA].build(), arguments, train_dataset=Rows(), data_collator=collate)
    try:
        trainer.train()
        trainer.save_state()
    finally:
        uninstall()
    return str(folder)


def refusals(found: Comparison) -> str:
    return "\n".join(found.trainings[0].refusals)


def test_what_a_real_trainer_wrote(tmp_path: Path) -> None:
    observed = train(tmp_path / "observed", VistaConfig(weight=0.0))
    vista = train(tmp_path / "vista", VistaConfig(weight=0.5))
    found = compare([observed], [vista])
    assert found.is_complete, refusals(found)
    checks = {check.name: check.status for check in found.trainings[0].checks}
    assert DIFFERS not in checks.values() and checks["seed"] == SAME, checks
    row = found.trainings[0].rows[0]
    before, after = (arm[0].series("ce_loss")[1] for arm in (found.trainings[0].baseline, found.trainings[0].vista))
    assert len(before) == len(after) == STEPS and before[0] == after[0] and before[-1] != after[-1]
    assert row.change == pytest.approx(row.vista[0] - row.baseline[0])

    other = train(tmp_path / "seed", VistaConfig(weight=0.5), seed=7)
    found = compare([observed], [other])
    assert not found.is_complete and "seed" in refusals(found)

    train(tmp_path / "vista", None)  # a plain training into the folder of the other: its record is stale
    plain = train(tmp_path / "plain", None)
    found = compare([plain], [vista])
    assert not found.is_complete and "was not trained with VISTA" in refusals(found)
    assert any("used for another training before" in line for line in found.problems), found.problems
