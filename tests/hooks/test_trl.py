"""TRL: SFTTrainer in a program, and the `trl sft` command with flags and with YAML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_chat import IMAGE, make_model, make_processor, make_rows, write
from trl import SFTConfig, SFTTrainer

from llava_vista import VistaConfig, attach, install

pytestmark = pytest.mark.environments("latest")

BIN = Path(sys.executable).parent


def train(
    output: Path, *, peft: bool = False, trainer_class=SFTTrainer, rows: list[dict] | None = None, **options
) -> tuple[SFTTrainer, dict[str, torch.Tensor]]:
    """One SFTTrainer after one step of plain SGD at learning rate 1, and its gradients."""
    peft_config = None
    if peft:
        from peft import LoraConfig

        peft_config = LoraConfig(r=2, target_modules=r".*language_model.*(q_proj|v_proj)")
    arguments = SFTConfig(
        **{
            "output_dir": str(output), "max_steps": 1, "logging_steps": 1, "optim": "sgd", "learning_rate": 1.0,
            "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_strategy": "no", "report_to": [],
            "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "max_length": None, **options,
        }
    )  # fmt: skip
    trainer = trainer_class(
        make_model(), arguments, train_dataset=Dataset.from_list(rows or make_rows(4)),
        processing_class=make_processor(), peft_config=peft_config,
    )  # fmt: skip
    start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    return trainer, {name: start[name] - value.detach() for name, value in trainer.model.named_parameters()}


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_accumulation_of_four_equals_one_large_batch(tmp_path, peft: bool) -> None:
    install(VistaConfig(weight=2.0))
    large, expected = train(tmp_path, peft=peft, per_device_train_batch_size=4)
    _, found = train(tmp_path, peft=peft, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    scale = max(value.abs().max() for value in expected.values())
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-5 * scale, name
    record = large.state.log_history[0]
    assert record["vista_aligned_samples"] == 4
    assert float(record["loss"]) == pytest.approx(record["ce_loss"] + 2 * record["vista_loss"], abs=1e-3)


def test_the_term_reaches_the_gradients_by_value(tmp_path) -> None:
    """What weight 3 adds to the gradients is three times the gradient of the term alone."""
    batches = []

    class Keep(SFTTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            batches.append({key: value.clone() for key, value in inputs.items()})
            return super().compute_loss(model, inputs, **kwargs)

    install(VistaConfig(weight=0.0))
    _, without = train(tmp_path, trainer_class=Keep, per_device_train_batch_size=4)
    install(VistaConfig(weight=3.0))
    _, with_term = train(tmp_path, per_device_train_batch_size=4)
    model = make_model().train()
    handle = attach(model, add_to_loss=False)
    model(**batches[0])
    handle.loss().backward()
    handle.detach()
    scale = max(value.abs().max() for value in with_term.values())
    added = 0.0
    for name, parameter in model.named_parameters():
        term = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert (with_term[name] - without[name] - 3 * term).abs().max() <= 1e-5 * scale, name
        added = max(added, float(term.abs().max()))
    assert added > 1e-4 * float(scale)


def test_answers_only(tmp_path) -> None:
    """Prompts and completions: only completions are supervised, and with ``text_scope`` "answer" only they count."""
    batches = []

    class Keep(SFTTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            batches.append({key: value.clone() for key, value in inputs.items()})
            return super().compute_loss(model, inputs, **kwargs)

    rows = [
        {"images": row["images"], "prompt": row["messages"][:1], "completion": row["messages"][1:]}
        for row in make_rows(2)
    ]
    install(VistaConfig(text_scope="answer"))
    trainer, _ = train(tmp_path, trainer_class=Keep, rows=rows, per_device_train_batch_size=2)
    (batch,) = batches
    seen = {}
    model = make_model().train()
    decoder = model.model.language_model
    decoder.register_forward_pre_hook(lambda _, args, given: seen.update(x=given["inputs_embeds"]), with_kwargs=True)
    decoder.register_forward_hook(lambda _, args, output: seen.update(s=output.last_hidden_state))
    model(**batch)
    values = []
    for row, labels in enumerate(batch["labels"]):
        answer, image = (labels >= 0).nonzero()[:, 0], (batch["input_ids"][row] == IMAGE).nonzero()[:, 0]
        assert image[-1] < answer[0] and len(answer) < int(batch["attention_mask"][row].sum()) - len(image)
        distance = ((seen["s"][row, image[-1]] - seen["x"][row, answer]) ** 2).mean(dim=1)
        values.append((torch.arange(1, len(answer) + 1) / len(answer) * distance).mean())
    record = trainer.state.log_history[0]
    assert record["vista_loss"] == pytest.approx(sum(values).item() / 2, abs=1e-5)
    assert float(record["loss"]) == pytest.approx(record["ce_loss"] + record["vista_loss"], abs=1e-3)


@pytest.mark.parametrize("option", ["packing", "padding_free"])
def test_trl_itself_refuses_packing_images(tmp_path, option: str) -> None:
    """Should a later version take it, the refusal of packed rows (`watch._refuse_packing`) has to be looked at."""
    with pytest.raises(ValueError, match="not supported for vision datasets"):
        train(tmp_path, max_length=64, **{option: True})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("chat")
    write(path)
    return path


def trl(*words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "LLAVA_VISTA"}
    result = subprocess.run(
        [str(BIN / "trl"), "sft", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500,
        env={**environment, "PATH": f"{BIN}{os.pathsep}{environment['PATH']}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-6000:]
    return result.stdout


def records(output: Path) -> list[dict]:
    (state,) = output.glob("checkpoint-*/trainer_state.json")
    return [record for record in json.loads(state.read_text())["log_history"] if "loss" in record]


OPTIONS = {
    "max_steps": 3, "per_device_train_batch_size": 2, "logging_steps": 1, "report_to": "none", "use_cpu": True,
    "bf16": False, "learning_rate": 1e-3, "eval_strategy": "no", "save_steps": 3, "gradient_checkpointing": True,
}  # fmt: skip


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_command_line_flags(folder, tmp_path, peft: bool) -> None:
    words = [word for key, value in OPTIONS.items() for word in (f"--{key}", str(value))]
    words += ["--model_name_or_path", f"{folder}/model", "--dataset_name", f"{folder}/data"]
    if peft:
        words += ["--use_peft", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj"]
    printed = trl(*words, "--output_dir", str(tmp_path), "--vista", "--vista_weight", "0.5")
    assert "VISTA enabled: method=l2 weight=0.5" in printed
    assert "nothing was done" not in printed  # the parent only launches
    log = records(tmp_path)
    assert len(log) == 3
    for record in log:
        assert record["vista_aligned_samples"] == 2
        assert float(record["loss"]) == pytest.approx(record["ce_loss"] + 0.5 * record["vista_loss"], abs=2e-3)
    assert (tmp_path / "vista.json").is_file()


def test_yaml(folder, tmp_path) -> None:
    config = {
        **OPTIONS, "model_name_or_path": f"{folder}/model", "dataset_name": f"{folder}/data",
        "output_dir": str(tmp_path / "out"), "vista": True, "vista_method": "cosine",
    }  # fmt: skip
    path = tmp_path / "sft.yaml"
    path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items()))
    printed = trl("--config", str(path))
    assert "VISTA enabled: method=cosine weight=1.0" in printed
    assert [record["vista_aligned_samples"] for record in records(tmp_path / "out")] == [2, 2, 2]
