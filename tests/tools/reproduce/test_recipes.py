"""The recipes of LLaVA's own scripts under its own trainer, one process, each with VISTA."""

from __future__ import annotations

import pytest
import torch
from tiny_train import ModelArguments, arguments, make_trainer

from llava_vista import VistaConfig, install

pytestmark = pytest.mark.environments("llava")


def train(trainer, **config) -> list[dict]:
    install(VistaConfig(**config))
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    for record in records:
        assert record["vista_aligned_samples"] > 0
        assert record["loss"] == pytest.approx(record["ce_loss"] + record["vista_loss"], abs=3e-4)
    return records


@pytest.mark.parametrize(
    "options",
    [
        {"bf16": True, "use_cpu": True},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"gradient_accumulation_steps": 3},
        {"mm_projector_lr": 2e-5},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_training_options(tower_path, tmp_path, options: dict) -> None:
    records = train(make_trainer(ModelArguments(tower_path, "1"), arguments(tmp_path, **options)))
    assert records[-1]["vista_loss"] < records[0]["vista_loss"]


def test_grouping_by_modality_with_text_only_batches(tower_path, tmp_path) -> None:
    """Whole batches are text-only then: they add nothing, and are not counted."""
    trainer = make_trainer(
        ModelArguments(tower_path, "10"),
        arguments(tmp_path, group_by_modality_length=True, max_steps=16, logging_steps=1),
    )
    install()
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    counts = [record["vista_aligned_samples"] for record in records]
    assert {0, 2} <= set(counts)  # the last batch may mix both
    assert sum(counts) == 16
    for record in records:
        expected = record["ce_loss"] + (record["vista_loss"] if record["vista_aligned_samples"] else 0)
        assert record["loss"] == pytest.approx(expected, abs=2e-4)


def gradients_of_term(model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    from llava_vista import attach

    handle = attach(model, add_to_loss=False)
    model(**batch)
    handle.loss().backward()
    handle.detach()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("trained", "reached"),
    [
        (("mm_projector",), {"mm_projector"}),  # --tune_mm_mlp_adapter, --freeze_backbone
        (("mm_projector", "embed_tokens"), {"mm_projector", "embed_tokens"}),
        (("model.layers", "mm_projector"), {"model.layers", "mm_projector"}),  # frozen embedding table
        (("vision_tower", "mm_projector"), {"mm_projector"}),  # the tower runs under no_grad in LLaVA itself
        (("",), {"embed_tokens", "model.layers", "mm_projector", "model.norm"}),
    ],
    ids=["projector", "projector and embeddings", "embeddings frozen", "tower unfrozen", "all"],
)
def test_what_is_trained_gets_the_terms_gradient(make_model, trained, reached) -> None:
    from tiny_llava import make_batch

    model = make_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in trained))
    found = gradients_of_term(model, make_batch())
    nonzero = {name for name, gradient in found.items() if gradient.abs().max() > 0}
    for part in reached:
        assert any(part in name for name in nonzero), part
    assert all(any(part in name for part in reached) for name in nonzero)


def test_the_code_path_of_qlora(make_model, tower_path, tmp_path) -> None:
    """As LLaVA does with --bits 4 --lora_enable, but for the quantised weights, which need a GPU."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    trainer = make_trainer(
        ModelArguments(tower_path, "1"), arguments(tmp_path, gradient_checkpointing=True, logging_steps=2)
    )
    model = prepare_model_for_kbit_training(trainer.model, use_gradient_checkpointing=True)
    model.enable_input_require_grads()
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    trainer = type(trainer)(
        get_peft_model(model, lora),
        trainer.args,
        train_dataset=trainer.train_dataset,
        data_collator=trainer.data_collator,
    )
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in start)
    train(trainer)
    now = dict(trainer.model.named_parameters())
    assert any(not torch.equal(now[name], value) for name, value in start.items())


def test_frozen_table_changes_no_other_gradient(make_model) -> None:
    """Leaving out the gradient of a frozen embedding table is only that: the rest is bit for bit the same."""
    from tiny_llava import make_batch

    model, batch = make_model(), make_batch()
    full = {name: gradient.clone() for name, gradient in gradients_of_term(model, batch).items()}
    model.zero_grad(set_to_none=True)
    model.get_input_embeddings().requires_grad_(False)
    frozen = gradients_of_term(model, batch)
    assert set(full) - set(frozen) == {"model.embed_tokens.weight"}
    assert all(torch.equal(full[name], gradient) for name, gradient in frozen.items())
