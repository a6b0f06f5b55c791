"""Trainers that override compute_loss, training_step, evaluation or log in the ways that people do."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stand_in import StandInAdapter, build, make_trainer
from torch.nn.functional import kl_div
from transformers import Trainer
from transformers.utils import ModelOutput

from llava_vista import AttachError, VistaConfig, install, register_adapter, uninstall
from llava_vista.adapters import ADAPTERS

pytestmark = pytest.mark.environments("latest")


@pytest.fixture(autouse=True)
def adapter() -> Iterator[None]:
    register_adapter("stand-in")(StandInAdapter)
    yield
    uninstall()
    ADAPTERS.remove("stand-in")


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def train(folder: Path, cls: type, weight: float | None, **options) -> Trainer:
    """Samples have one to six supervised tokens."""
    if weight is not None:
        install(VistaConfig(weight=weight))
    trainer = make_trainer(folder, cls, **options)
    for number, row in enumerate(trainer.train_dataset.rows):
        row["labels"][:, : 6 + number % 6] = -100
    trainer.train()
    uninstall()
    return trainer


class Keywords(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        return super().compute_loss(model, inputs, return_outputs, **kwargs)


class Collected(Trainer):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


class Renamed(Trainer):
    def compute_loss(self, net, batch, with_outputs=False, num_items_in_batch=None):
        return super().compute_loss(net, batch, with_outputs, num_items_in_batch)


class Tuples(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs, return_dict=False)[0]


class Twice(Trainer):
    """As R-Drop: two forwards, and how far they are apart."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        one, two = model(**inputs), model(**inputs)
        return (one.loss + two.loss) / 2 + 0.1 * (one.logits - two.logits).square().mean()


class Distilled(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        with torch.no_grad():
            wanted = build(1).eval()(**inputs).logits.softmax(-1)
        output = model(**inputs)
        return output.loss / 2 + kl_div(output.logits.log_softmax(-1), wanted, reduction="batchmean") / 20


@pytest.mark.parametrize("cls", [Trainer, Keywords, Collected, Renamed, Tuples, Twice, Distilled])
def test_the_term_is_scaled_as_the_loss_beside_it(tmp_path: Path, cls: type) -> None:
    """A window of four and a batch of four have the term in the same proportion to the rest of the loss.

    A mean of means is not quite that of all tokens; what goes wrong here is a factor of four.
    """
    proportions = []
    for window in (1, 4):
        options = {
            "max_steps": 1, "per_device_train_batch_size": 4 // window, "gradient_accumulation_steps": window,
            "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
        }  # fmt: skip
        start = torch.cat([parameter.detach().flatten() for parameter in build().parameters()])
        without, with_term = (weights(train(tmp_path, cls, weight, **options)) for weight in (0.0, 5.0))
        proportions.append(float((with_term - without).norm() / (without - start).norm()))
    assert proportions[1] == pytest.approx(proportions[0], rel=0.6)


Pair = namedtuple("Pair", "loss more")
FORMS = {
    "mapping": lambda loss: {"loss": loss},
    "output": lambda loss: ModelOutput(loss=loss, more=1),
    "list": lambda loss: [loss, 1],
    "named tuple": lambda loss: Pair(loss, 1),
}


def returning(form: str) -> type:
    class Returning(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            return FORMS[form](super().compute_loss(model, inputs, **kwargs))

        def training_step(self, model, inputs, *others, **more):
            model.train()
            found = self.compute_loss(model, self._prepare_inputs(inputs))
            loss = found.loss if hasattr(found, "loss") else found["loss"] if isinstance(found, dict) else found[0]
            self.accelerator.backward(loss)
            return loss.detach()

    return Returning


@pytest.mark.parametrize("form", FORMS)
def test_a_loss_comes_back_in_the_form_that_it_had(tmp_path: Path, form: str) -> None:
    plain = train(tmp_path, returning(form), None)
    assert torch.equal(weights(train(tmp_path, returning(form), 0.0)), weights(plain))
    record = train(tmp_path, returning(form), 1.0).state.log_history[0]
    assert record["loss"] == pytest.approx(record["ce_loss"] + record["vista_loss"], abs=1e-5)


class Nested(Trainer):
    """Calls itself for a part of the batch."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        if len(inputs["input_ids"]) == 1:
            return model(**inputs).loss
        halves = [{name: value[at : at + 1] for name, value in inputs.items()} for at in (0, 1)]
        return (self.compute_loss(model, halves[0]) + model(**halves[1]).loss) / 2


def test_a_compute_loss_that_calls_itself_has_every_pass(tmp_path: Path) -> None:
    nested, usual = (train(tmp_path, cls, 1.0, max_steps=1, logging_steps=1) for cls in (Nested, Trainer))
    for key in ("vista_aligned_samples", "vista_loss", "vista_similarity"):
        assert nested.state.log_history[0][key] == pytest.approx(usual.state.log_history[0][key], rel=1e-5)


class TrainsOnOutputs(Trainer):
    def training_step(self, model, inputs, *others, **more):
        model.train()
        _, outputs = self.compute_loss(model, self._prepare_inputs(inputs), return_outputs=True)
        self.accelerator.backward(outputs.loss)
        return outputs.loss.detach()


def test_a_step_on_another_loss_stops(tmp_path: Path) -> None:
    plain = train(tmp_path, TrainsOnOutputs, None)
    assert torch.equal(weights(train(tmp_path, TrainsOnOutputs, 0.0)), weights(plain))
    with pytest.raises(AttachError, match="on another loss than the one that its compute_loss returned"):
        train(tmp_path, TrainsOnOutputs, 1.0)


class WithGradients(Trainer):
    """Evaluates with gradients enabled, as methods that need them at test time do."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def log(self, metrics, start_time=None):
        super().log(metrics, start_time)

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self.log(start_time=None, metrics={"mine": 1})


def test_evaluation_has_the_hosts_own_loss(tmp_path: Path) -> None:
    def run(weight: float | None) -> list[dict]:
        if weight is not None:
            install(VistaConfig(weight=weight))
        trainer = make_trainer(tmp_path, WithGradients, learning_rate=0.0)
        trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 1
        trainer.eval_dataset = trainer.train_dataset
        trainer.train()
        uninstall()
        return trainer.state.log_history

    plain, observed, trained = run(None), run(0.0), run(5.0)
    for records in (observed, trained):
        assert [record.get("eval_loss") for record in records] == [record.get("eval_loss") for record in plain]
        assert [record["vista_aligned_samples"] for record in records if "loss" in record] == [4, 4]
        assert [record.get("mine") for record in records] == [record.get("mine") for record in plain]
