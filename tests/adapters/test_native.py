"""transformers' own vision-language classes: the conformance kit, and training under the Trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from native_models import FAMILIES, LLAVA
from transformers import Trainer, TrainingArguments

from llava_vista import LayoutError, VistaConfig, attach, install, uninstall
from llava_vista.testing import check_adapter

pytestmark = pytest.mark.environments("latest", "older", "llava")


@pytest.mark.parametrize("name", FAMILIES)
def test_conformance(name: str) -> None:
    family = FAMILIES[name]
    outcomes = check_adapter(family.build, family.batch)
    skipped = [str(outcome) for outcome in outcomes if outcome.result == "skipped"]
    assert not skipped


class Rows(torch.utils.data.Dataset):
    """Rows with one image each, all of one length."""

    def __init__(self, name: str, number: int = 4) -> None:
        self.rows = [FAMILIES[name].batch((1,), seed) for seed in range(number)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]


def collate(rows: list[dict]) -> dict:
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def train(name: str, output: Path, *, peft: bool = False, **options) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """One trainer after its run, and by how much each weight has changed."""
    torch.manual_seed(0)
    model = FAMILIES[name].build()
    if peft:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=r"(?!.*vis).*(q_proj|v_proj)"))
    start = {key: value.detach().clone() for key, value in model.named_parameters()}
    arguments = TrainingArguments(
        **{
            "output_dir": str(output), "max_steps": 1, "logging_steps": 1, "optim": "sgd", "learning_rate": 1.0,
            "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "save_strategy": "no", "report_to": [],
            "remove_unused_columns": False, "disable_tqdm": True, "use_cpu": True, **options,
        }
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=Rows(name), data_collator=collate)
    trainer.train()
    return trainer, {key: start[key] - value.detach() for key, value in model.named_parameters()}


def plain_factor(name: str, output: Path, peft: bool) -> float:
    """By what this version's own Trainer multiplies the gradients of 4 accumulated micro-batches, without VISTA."""
    uninstall()
    _, large = train(name, output, peft=peft, per_device_train_batch_size=4)
    _, accumulated = train(name, output, peft=peft, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    key = max(large, key=lambda key: large[key].abs().max())
    at = large[key].abs().argmax()
    return float(accumulated[key].flatten()[at] / large[key].flatten()[at])


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_accumulation_of_four_equals_one_large_batch(tmp_path, name: str, peft: bool) -> None:
    """Where this version's Trainer adds up micro-batches of a class instead of averaging them, so does the term."""
    install(VistaConfig(weight=2.0))
    large, expected = train(name, tmp_path, peft=peft, per_device_train_batch_size=4)
    accumulated, found = train(name, tmp_path, peft=peft, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    scale = max(value.abs().max() for value in expected.values())
    assert scale > 0
    error = max(float((found[key] - value).abs().max()) for key, value in expected.items())
    factor = 1.0
    if error > 1e-5 * scale:
        factor = plain_factor(name, tmp_path, peft)
        assert factor == pytest.approx(4, rel=1e-4)
        error = max(float((found[key] - factor * value).abs().max()) for key, value in expected.items())
    assert error <= 1e-5 * factor * scale
    for trainer, times in ((large, 1), (accumulated, factor)):
        record = trainer.state.log_history[0]
        assert record["vista_aligned_samples"] == 4
        whole = record["ce_loss"] + 2 * record["vista_loss"]
        assert any(float(record["loss"]) == pytest.approx(wanted * whole, abs=4e-3) for wanted in (1, times))


@pytest.mark.skipif(
    transformers.__version__ < "4.44", reason="this version's own merging fails under bf16 autocast, without VISTA too"
)
def test_bf16(tmp_path) -> None:
    """Under bf16 the Trainer replaces the model's forward on the instance: VISTA still sees the ids."""
    install()
    trainer, _ = train(next(iter(FAMILIES)), tmp_path, bf16=True, per_device_train_batch_size=2)
    record = trainer.state.log_history[0]
    assert record["vista_aligned_samples"] == 2
    assert float(record["loss"]) == pytest.approx(record["ce_loss"] + record["vista_loss"], abs=2e-2)


def test_embeddings_instead_of_ids_are_refused() -> None:
    family = FAMILIES[LLAVA]
    batch, model = family.batch((0,)), family.build().train()
    handle = attach(model)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(LayoutError, match="called without input_ids"):
        model(inputs_embeds=embeds, attention_mask=batch["attention_mask"], labels=batch["labels"])
    handle.detach()


def test_the_hosts_own_error_comes_through() -> None:
    """Images, but no image token in the ids."""
    family = FAMILIES[LLAVA]
    batch, model = family.batch((0,)), family.build().train()
    batch["pixel_values"] = torch.randn(1, 3, 16, 16)
    with pytest.raises(ValueError) as plain:
        model(**batch)
    handle = attach(model)
    with pytest.raises(ValueError) as attached:
        model(**batch)
    handle.detach()
    assert str(attached.value) == str(plain.value)
