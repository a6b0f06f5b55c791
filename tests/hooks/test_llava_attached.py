"""attach() in the program and the flag together, with the real LLaVA model: once, or an error that names both."""

from __future__ import annotations

import pytest
import torch
from tiny_llava import make_batch
from tiny_train import ModelArguments, arguments, make_trainer
from transformers import Trainer, TrainerCallback

from llava_vista import AttachError, VistaConfig, attach, install

pytestmark = pytest.mark.environments("llava")


def hooks(trainer: Trainer) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in trainer.model.modules()]


def test_attached_by_hand_and_flag_with_the_same_options_is_applied_once(tower_path, tmp_path, caplog) -> None:
    """Bit for bit what the flag alone does, accumulation included; then attach()'s handle is as it was."""
    logs, weights = [], []
    options = {"gradient_accumulation_steps": 2, "logging_steps": 1}
    for by_hand in (False, True):
        trainer = make_trainer(ModelArguments(tower_path), arguments(tmp_path, **options))
        handle = attach(trainer.model, VistaConfig(weight=2.0)) if by_hand else None
        before = hooks(trainer)
        install(VistaConfig(weight=2.0))
        with caplog.at_level("INFO", logger="llava_vista"):
            trainer.train()
        logs.append([record for record in trainer.state.log_history if "loss" in record])
        weights.append(dict(trainer.model.named_parameters()))
        if handle is not None:
            assert "it is applied once, by the trainer" in caplog.text
            assert hooks(trainer) == before
            model, batch = trainer.model, make_batch((1, 1))
            with_term = model(**batch).loss.item()
            metrics = handle.metrics()
            assert with_term == pytest.approx(metrics["ce_loss"] + 2 * metrics["vista_loss"], abs=1e-5)
            handle.detach()
        else:
            assert "applied once" not in caplog.text
    assert logs[0] == logs[1]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_attached_by_hand_is_given_back_after_an_exception(tower_path, tmp_path) -> None:
    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("out of coffee")

    trainer = make_trainer(ModelArguments(tower_path), arguments(tmp_path))
    handle = attach(trainer.model)
    trainer.add_callback(Fail())
    install()
    with pytest.raises(RuntimeError, match="out of coffee"):
        trainer.train()
    assert handle.adds_to_loss
    handle.detach()


def test_attached_by_hand_and_flag_with_other_options(tower_path, tmp_path) -> None:
    trainer = make_trainer(ModelArguments(tower_path), arguments(tmp_path))
    handle = attach(trainer.model, VistaConfig(method="cosine", weight=0.5))
    install()
    with pytest.raises(AttachError, match=r"method 'cosine' and 'l2', weight 0.5 and 1.0\. Use one"):
        trainer.train()
    assert handle.adds_to_loss
    handle.detach()


def test_observed_by_hand_and_flag(tower_path, tmp_path) -> None:
    trainer = make_trainer(ModelArguments(tower_path), arguments(tmp_path))
    handle = attach(trainer.model, add_to_loss=False)
    install()
    with pytest.raises(AttachError, match="might be added twice"):
        trainer.train()
    handle.detach()
