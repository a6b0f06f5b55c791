"""One step of the stand-in under the newest Trainer, on one or several ranks; saves weights and log."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from stand_in import Rows, StandInAdapter, build, collate
from transformers import Trainer, TrainingArguments

from llava_vista import VistaConfig, install, register_adapter


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def main() -> None:
    output, size, k = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    register_adapter("stand-in")(StandInAdapter)
    install(VistaConfig(weight=2.0))
    arguments = TrainingArguments(
        output_dir=output, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=k,
        logging_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant",
        save_strategy="no", report_to=[], remove_unused_columns=False, disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = InOrder(build(), arguments, train_dataset=Rows(), data_collator=collate)
    trainer.train()
    if trainer.is_world_process_zero():
        weights = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        save_file(weights, Path(output) / "weights.safetensors")
        (Path(output) / "log.json").write_text(json.dumps(trainer.state.log_history[0]))
    if torch.distributed.is_initialized():
        # without the interpreter's shutdown, in which a thread of gloo may abort the process (PyTorch's issue 190489)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
