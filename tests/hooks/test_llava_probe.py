"""``--vista_probe_steps`` with the real LLaVA-1.5: the value, and a training that is bit for bit the same."""

from __future__ import annotations

import pytest
import torch
from runs import COMMON, HERE, SCRIPT, equal, history, launcher, run, weights
from tiny_llava import build, make_batch
from tiny_train import ModelArguments, arguments, make_trainer
from traced import answer_log_probs, trace

from llava_vista import VistaConfig, install, uninstall

pytestmark = pytest.mark.environments("llava")


@pytest.mark.parametrize("case", ["plain", "checkpointing", "lora"])
def test_llava_is_measured_and_trains_as_without(tower_path, tmp_path, case: str) -> None:
    """LoRA with dropout: the pass with the image is repeated without it, and the random state is put back."""
    trainers = []
    for steps in (0, 1):
        uninstall()
        install(VistaConfig(weight=0, probe_steps=steps))
        options = {"gradient_checkpointing": case == "checkpointing", "logging_steps": 1, "max_steps": 3}
        trainer = make_trainer(
            ModelArguments(tower=tower_path, images_per_row="1"),
            arguments(tmp_path, per_device_train_batch_size=1, **options),
        )
        if case == "lora":
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(1)
            lora = LoraConfig(r=2, lora_dropout=0.5, target_modules=r"model.layers.*(q_proj|v_proj)")
            trainer.model = trainer.model_wrapped = get_peft_model(trainer.model, lora)
        trainer.train()
        trainers.append(trainer)
    plain, probed = trainers
    assert equal(dict(plain.model.state_dict()), dict(probed.model.state_dict()))
    records = [record for record in probed.state.log_history if "loss" in record]
    assert all(abs(record["vista_information"]) > 1e-6 for record in records)

    # LoRA starts at zero, so all three begin with the same model; its first batch is one of the 32 rows.
    wanted = []
    model = build("llama", tower_path).eval()
    for seed in range(32):
        batch = make_batch((1,), seed=seed)
        seen, blind = (answer_log_probs(trace(model, batch, blind=blind))[0] for blind in (False, True))
        wanted.append(float((seen - blind).mean()))
    assert min(abs(records[0]["vista_information"] - value) for value in wanted) < 1e-6


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deepspeed_with_a_rank_that_never_has_an_image(tower_path, tmp_path, stage: str) -> None:
    """Both ranks take part in the same collectives; the weights are those without the probe."""
    outputs = []
    for name in ("0", "1"):
        outputs.append(tmp_path / name)
        run(
            [
                *launcher("deepspeed"), str(SCRIPT), "--tower", tower_path, "--output_dir", str(outputs[-1]),
                "--deepspeed", f"{HERE}/deepspeed/{stage}.json", "--per_device_train_batch_size", "1", "--max_steps",
                "4", "--logging_steps", "1", "--learning_rate", "1e-3", "--save_strategy", "no", "--in_order",
                "--images_per_row", "10", *COMMON, "--vista", "--vista_probe_steps", name,
            ],
            OMP_NUM_THREADS="1",
            DS_ACCELERATOR="cpu",
        )  # fmt: skip
    assert equal(*map(weights, outputs))
    plain, probed = (history(output, "loss") for output in outputs)
    assert all(record["vista_information_tokens"] > 0 for record in probed)
    assert [record["vista_loss"] for record in probed] == [record["vista_loss"] for record in plain]
