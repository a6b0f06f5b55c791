"""Training with the flag on where VISTA cannot act or the host fails: what stops the run, and what is only said."""

from __future__ import annotations

import math

import pytest
import torch
from runs import STEPS
from tiny_train import ModelArguments, arguments, make_trainer
from transformers import Trainer, TrainerCallback

from llava_vista import NonFiniteLossError, UnsupportedModelError, VistaConfig, install

pytestmark = pytest.mark.environments("llava")


@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_not_finite_stops_before_the_save(tower_path, tmp_path, method) -> None:
    trainer = make_trainer(
        ModelArguments(tower_path, "1"),
        arguments(tmp_path, save_strategy="steps", save_steps=3, logging_steps=100),
    )

    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                with torch.no_grad():
                    trainer.model.model.norm.weight[0] = torch.nan

    trainer.add_callback(Break())
    install(VistaConfig(method))
    with pytest.raises(NonFiniteLossError, match=r"at step 1 on rank 0.*cross-entropy was not finite then either"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_not_finite_stops_at_the_end_of_training(tower_path, tmp_path) -> None:
    trainer = make_trainer(ModelArguments(tower_path, "1"), arguments(tmp_path, max_steps=2, logging_steps=100))
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = torch.nan
    install()
    with pytest.raises(NonFiniteLossError, match="at step 0 on rank 0"):
        trainer.train()


def test_skip_drops_the_batch_and_counts_it(tower_path, tmp_path) -> None:
    """An estimator that fails on every second batch: training goes on, the log says how often."""
    from llava_vista import register_estimator
    from llava_vista.config import ESTIMATORS

    @register_estimator("fragile")
    def fragile(anchors, bag):
        value = (anchors * bag.vector).sum(-1)
        return value / 0 if trainer.state.global_step % 2 == 0 else value

    try:
        trainer = make_trainer(ModelArguments(tower_path, "1"), arguments(tmp_path, logging_steps=STEPS))
        install(VistaConfig("fragile", on_nonfinite="skip", weight=1e-3))
        trainer.train()
    finally:
        ESTIMATORS.remove("fragile")
    record = trainer.state.log_history[0]
    assert record["vista_nonfinite_batches"] == STEPS // 2
    assert record["vista_aligned_samples"] == 2 * (STEPS - STEPS // 2)
    assert math.isfinite(record["vista_loss"])
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_text_only_data_is_warned_about_and_counted(tower_path, tmp_path, caplog) -> None:
    trainer = make_trainer(ModelArguments(tower_path, images_per_row="0"), arguments(tmp_path, logging_steps=1))
    install()
    with caplog.at_level("WARNING", logger="llava_vista"):
        trainer.train()
    warnings = [record.getMessage() for record in caplog.records if "not seen a single sample" in record.getMessage()]
    assert len(warnings) == 1
    assert all(record["vista_aligned_samples"] == 0 for record in trainer.state.log_history if "loss" in record)


def test_unsupervised_batch_and_zero_loss_are_warned_about(tower_path, tmp_path, caplog) -> None:
    trainer = make_trainer(ModelArguments(tower_path, "1"), arguments(tmp_path, max_steps=2, logging_steps=1))
    for row in trainer.train_dataset.rows:
        row["labels"][:] = -100
    install(VistaConfig(weight=0))
    with caplog.at_level("WARNING", logger="llava_vista"):
        trainer.train()
    assert "without any supervised label" in caplog.text
    caplog.clear()

    class ZeroTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            return super().compute_loss(model, inputs) * 0

    good = make_trainer(ModelArguments(tower_path, "1"), arguments(tmp_path, max_steps=2, logging_steps=1))
    zero = ZeroTrainer(good.model, good.args, train_dataset=good.train_dataset, data_collator=good.data_collator)
    with caplog.at_level("WARNING", logger="llava_vista"):
        zero.train()
    assert "cross-entropy was exactly 0" in caplog.text


def test_unknown_model_stops_before_training(tmp_path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    trainer = Trainer(LlamaForCausalLM(tiny), arguments(tmp_path), train_dataset=[{"input_ids": [1]}])
    install()
    with pytest.raises(UnsupportedModelError, match=r"no adapter recognises.*LlamaForCausalLM"):
        trainer.train()


def test_label_smoothing_fails_in_the_host_itself(tower_path, tmp_path) -> None:
    """The smoother takes the labels out of the batch and compares them with the merged sequence: LLaVA's own limit."""
    trainer = make_trainer(ModelArguments(tower_path, "1"), arguments(tmp_path, label_smoothing_factor=0.1))
    with pytest.raises(RuntimeError) as plain:
        trainer.train()
    install()
    with pytest.raises(RuntimeError) as with_vista:
        trainer.train()
    assert str(with_vista.value) == str(plain.value)


def test_full_disk_on_vista_json_is_a_warning(tower_path, tmp_path, caplog, monkeypatch) -> None:
    trainer = make_trainer(ModelArguments(tower_path), arguments(tmp_path / "out", max_steps=1, logging_steps=1))
    import llava_vista.hooks.run_record as record

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.json, "dump", full)
    install()
    with caplog.at_level("WARNING", logger="llava_vista"):
        trainer.train()
    assert "No space left on device" in caplog.text
    assert trainer.state.log_history[0]["vista_loss"] > 0
