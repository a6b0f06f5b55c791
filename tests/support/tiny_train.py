"""A LLaVA-style training script in miniature for the hooks: HfArgumentParser, Trainer, the real LLaVA model."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from cpu_ranks import leave, wait_for_every_gather
from llava.train.llava_trainer import LLaVATrainer
from llava.train.train import TrainingArguments
from runs import STEPS
from tiny_llava import IMAGE_TOKEN, build, make_batch
from transformers import HfArgumentParser, Trainer, TrainerCallback


@dataclass
class ModelArguments:
    tower: str = field(default="")
    images_per_row: str = field(default="102")
    freeze: str = field(default="")
    in_order: bool = field(default=False)


class Rows(torch.utils.data.Dataset):
    """Single samples; ``kind`` has one digit per row, its number of images."""

    def __init__(self, kind: str, length: int = 32) -> None:
        self.rows = [make_batch((int(kind[i % len(kind)]),), seed=i) for i in range(length)]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def modality_lengths(self) -> list[int]:
        """As LLaVA's dataset: negative for a sample without an image."""
        return [20 if (row["input_ids"] == IMAGE_TOKEN).any() else -20 for row in self.rows]

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]


def collate(rows: list[dict]) -> dict:
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


class InOrder(LLaVATrainer):
    """LLaVA's own trainer, without shuffling, so that batches can be laid out over ranks beforehand."""

    def _get_train_sampler(self):
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Pause(TrainerCallback):
    """A moment after each step, so that a test can end the process between two."""

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(float(os.environ["PAUSE"]))


def make_trainer(model_arguments: ModelArguments, arguments: TrainingArguments) -> Trainer:
    model = build("llama", model_arguments.tower)
    model.get_vision_tower().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if model_arguments.freeze and model_arguments.freeze in name:
            parameter.requires_grad_(False)
    trainer_class = InOrder if model_arguments.in_order else LLaVATrainer
    rows = Rows(model_arguments.images_per_row)
    trainer = trainer_class(model, arguments, train_dataset=rows, data_collator=collate)
    if "PAUSE" in os.environ:
        trainer.add_callback(Pause())
    return trainer


def arguments(output: Path, **options) -> TrainingArguments:
    """For a run in the test's own process: `STEPS` steps, nothing saved."""
    return TrainingArguments(
        **{
            "output_dir": str(output),
            "max_steps": STEPS,
            "per_device_train_batch_size": 2,
            "logging_steps": 2,
            "learning_rate": 1e-3,
            "save_strategy": "no",
            "report_to": [],
            "remove_unused_columns": False,
            "disable_tqdm": True,
            "seed": 3,
            **options,
        }
    )


def main() -> None:
    parsed = HfArgumentParser((ModelArguments, TrainingArguments)).parse_args_into_dataclasses()
    if len(parsed) != 2:
        raise SystemExit(f"the host got {len(parsed)} objects")
    if parsed[1].deepspeed:
        wait_for_every_gather()
    trainer = make_trainer(*parsed)
    # as LLaVA's own train() decides
    trainer.train(resume_from_checkpoint=bool(list(Path(parsed[1].output_dir).glob("checkpoint-*"))) or None)
    trainer.save_state()
    trainer.save_model(parsed[1].output_dir)
    if os.environ.get("SHOW_MODULES"):
        print("HOOKS", any(name.partition(".")[0] == "llava_vista" for name in sys.modules))
    if torch.distributed.is_initialized():
        leave()


if __name__ == "__main__":
    main()
