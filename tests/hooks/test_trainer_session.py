"""The hooks on the newest transformers, with a stand-in model of the rarer merge contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from literal import literal_vista
from stand_in import IMAGE_LABEL, StandIn, StandInAdapter, build, collate, make_row, make_trainer
from transformers import Trainer, TrainerCallback

from llava_vista import NonFiniteLossError, VistaConfig, attach, install, register_adapter, uninstall
from llava_vista.adapters import ADAPTERS

pytestmark = pytest.mark.environments("latest")


@pytest.fixture(autouse=True)
def adapter() -> Iterator[None]:
    register_adapter("stand-in")(StandInAdapter)
    yield
    ADAPTERS.remove("stand-in")


def test_term_and_host_labels(tmp_path) -> None:
    model, batch = build().train(), make_row(1, images=2)
    plain = model(**batch).loss
    handle = attach(model, VistaConfig(weight=0.5))
    total = model(**batch).loss
    merged = model.prepare_inputs_labels_for_multimodal(
        batch["input_ids"], batch["attention_mask"], None, batch["labels"], batch["images"]
    )
    assert (merged[4] == IMAGE_LABEL).sum() == 10  # the host's own label stays at image positions
    metrics = handle.metrics()
    assert metrics["ce_loss"] == pytest.approx(plain.item(), abs=1e-6)
    assert total.item() == pytest.approx(plain.item() + 0.5 * metrics["vista_loss"], abs=1e-6)
    handle.detach()
    image = merged[4] == IMAGE_LABEL
    hidden = model.model(inputs_embeds=merged[3], attention_mask=merged[1]).last_hidden_state
    expected, _ = literal_vista(merged[3].double(), hidden.double(), ~image, image, "l2")
    assert metrics["vista_loss"] == pytest.approx(expected.item(), abs=1e-6)


class WithoutLossKwargs(StandIn):
    """Takes no keyword arguments, so that the trainer divides a mean loss itself."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None):
        return super().forward(input_ids, attention_mask, labels, images)


@pytest.mark.parametrize("takes_num_items", [True, False])
def test_accumulation_equals_one_large_batch(tmp_path, takes_num_items: bool) -> None:
    gradients = {}
    for name, (size, k) in {"large": (4, 1), "accumulated": (1, 4)}.items():
        trainer = make_trainer(
            tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=k, logging_steps=1,
            optim="sgd", learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant",
        )  # fmt: skip
        if not takes_num_items:
            trainer.model.__class__ = WithoutLossKwargs
            trainer.model_accepts_loss_kwargs = False
        start = {key: value.clone() for key, value in trainer.model.named_parameters()}
        install(VistaConfig(weight=2.0))
        trainer.train()
        gradients[name] = {key: start[key] - value for key, value in trainer.model.named_parameters()}
        record = trainer.state.log_history[0]
        assert float(record["loss"]) == pytest.approx(record["ce_loss"] + 2 * record["vista_loss"], abs=1e-3)
    scale = max(value.abs().max() for value in gradients["large"].values())
    for key, value in gradients["large"].items():
        assert (value - gradients["accumulated"][key]).abs().max() <= 1e-5 * scale, key


def test_short_last_accumulation_group(tmp_path) -> None:
    """16 rows in groups of 3 micro-batches of 2: the last group has 2. Every row weighs as the host's own loss does."""
    trainer = make_trainer(tmp_path, max_steps=-1, num_train_epochs=1, gradient_accumulation_steps=3, logging_steps=1)
    install()
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    assert [record["vista_aligned_samples"] for record in records] == [6, 6, 4]
    for record in records:
        assert float(record["loss"]) == pytest.approx(record["ce_loss"] + record["vista_loss"], abs=1e-3)


def test_weight_zero_is_the_baseline(tmp_path) -> None:
    results = []
    for weight in (None, 0.0):
        trainer = make_trainer(tmp_path)
        if weight is not None:
            install(VistaConfig(weight=weight))
        trainer.train()
        losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
        results.append((losses, {key: value.clone() for key, value in trainer.model.state_dict().items()}))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())


def test_everything_is_taken_off(tmp_path) -> None:
    trainer = make_trainer(tmp_path)
    classes = {cls: dict(vars(cls)) for owner in (trainer, trainer.model) for cls in type(owner).__mro__[:-1]}
    callbacks = list(trainer.callback_handler.callbacks)

    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("out of coffee")

    install()
    trainer.train()
    fail = Fail()
    trainer.add_callback(fail)
    with pytest.raises(RuntimeError, match="out of coffee"):
        trainer.train()
    trainer.remove_callback(fail)
    uninstall()
    for cls, content in classes.items():
        assert dict(vars(cls)) == content
    assert not {"compute_loss", "log", "_save_checkpoint"} & set(vars(trainer))
    assert list(trainer.callback_handler.callbacks) == callbacks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.model.modules())


def test_not_finite_stops_before_the_save(tmp_path) -> None:
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=2, logging_steps=100)
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = torch.nan
    install()
    with pytest.raises(NonFiniteLossError, match="at step 0 on rank 0"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_term_reaches_a_loss_that_ignores_the_models_output(tmp_path) -> None:
    """As TRL's trainer, which computes its loss from the logits: by value."""

    class FromLogits(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            logits = model(**inputs).logits
            return (logits * 0).sum()

    trainer = make_trainer(
        tmp_path, FromLogits, max_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer.model_accepts_loss_kwargs = False
    before = trainer.model.model.norm.weight.detach().clone()
    batch = collate([trainer.train_dataset[i] for i in range(2)])
    trainer.train_dataset.rows = [trainer.train_dataset.rows[0], trainer.train_dataset.rows[1]]
    handle = attach(trainer.model, add_to_loss=False)
    trainer.model.train()
    trainer.model(**batch)
    handle.loss().backward()
    expected = trainer.model.model.norm.weight.grad.clone()
    handle.detach()
    trainer.model.zero_grad()
    install(VistaConfig(weight=3.0))
    trainer.train()
    torch.testing.assert_close(before - trainer.model.model.norm.weight.detach(), 3 * expected, rtol=1e-4, atol=1e-7)
