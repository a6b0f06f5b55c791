"""The accounts of a training: every pass counts, every step had the term, every record is the trainer's own."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from stand_in import StandInAdapter, build, make_row, make_trainer
from transformers import Trainer

from llava_vista import AttachError, UnsupportedModelError, VistaConfig, attach, install, register_adapter, uninstall
from llava_vista.adapters import ADAPTERS
from llava_vista.attach.patching import Replacement

pytestmark = pytest.mark.environments("latest")


@pytest.fixture(autouse=True)
def adapter() -> Iterator[None]:
    register_adapter("stand-in")(StandInAdapter)
    yield
    ADAPTERS.remove("stand-in")


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def records(trainer: Trainer) -> list[dict]:
    return [record for record in trainer.state.log_history if "loss" in record]


class OneByOne(Trainer):
    """Runs the model once per sample."""

    def compute_loss(self, model, inputs, return_outputs=False, **more):
        count = len(inputs["input_ids"])
        parts = [{name: value[at : at + 1] for name, value in inputs.items()} for at in range(count)]
        return sum(model(**part).loss for part in parts) / count


def test_passes_of_one_compute_loss_are_one_batch(tmp_path: Path) -> None:
    install()
    seen = []
    for cls in (Trainer, OneByOne):
        trainer = make_trainer(tmp_path, cls, max_steps=1, logging_steps=1)
        trainer.train()
        seen.append(records(trainer)[0])
    assert seen[0]["vista_aligned_samples"] == seen[1]["vista_aligned_samples"] == 2
    assert seen[0]["vista_loss"] == pytest.approx(seen[1]["vista_loss"], rel=1e-5)


class Bypassing(Trainer):
    def training_step(self, model, inputs, *others, **more):
        model.train()
        loss = model(**self._prepare_inputs(inputs)).loss
        self.accelerator.backward(loss)
        return loss.detach()


class WithoutGradients(Trainer):
    """As a zeroth-order optimizer: two losses without gradients, and an update of its own."""

    def training_step(self, model, inputs, *others, **more):
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs))


@pytest.mark.parametrize(
    ("cls", "message"), [(Bypassing, "without calling compute_loss"), (WithoutGradients, "without gradients only")]
)
def test_a_step_without_the_term_stops_and_with_weight_zero_warns(tmp_path: Path, cls, message: str, caplog) -> None:
    install(VistaConfig(weight=5.0))
    with pytest.raises(AttachError, match=message):
        make_trainer(tmp_path, cls).train()
    uninstall()
    plain = make_trainer(tmp_path, cls)
    plain.train()
    install(VistaConfig(weight=0.0))
    observed = make_trainer(tmp_path, cls)
    with caplog.at_level(logging.WARNING, logger="llava_vista"):
        observed.train()
    assert message in caplog.text
    assert torch.equal(weights(plain), weights(observed))


class OwnLoop(Trainer):
    def _inner_training_loop(self, *args, **kwargs):
        return None


def test_a_loop_of_the_trainers_own_is_told(tmp_path: Path, caplog) -> None:
    install()
    with caplog.at_level(logging.WARNING, logger="llava_vista"):
        make_trainer(tmp_path, OwnLoop).train()
    assert "had no effect: OwnLoop.train returned without on_train_begin" in caplog.text


class EvalMode(Trainer):
    """Trains in evaluation mode, as frozen batch norms need it."""

    def training_step(self, model, inputs, *others, **more):
        loss = self.compute_loss(model.eval(), self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


def test_training_in_evaluation_mode_has_the_term(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path, EvalMode)
    plain.train()
    install()
    trainer = make_trainer(tmp_path, EvalMode)
    trainer.train()
    assert records(trainer)[-1]["vista_aligned_samples"] == 4
    assert not torch.equal(weights(plain), weights(trainer))


class Chatty(Trainer):
    def compute_loss(self, *args, **kwargs):
        self.log({"loss": 9.0, "mine": 1})
        return super().compute_loss(*args, **kwargs)


class Chattier(Chatty):
    def training_step(self, *args, **kwargs):
        self.log({"loss": 9.0, "mine": 1})
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize("cls", [Chatty, Chattier])
def test_user_records_get_nothing_and_take_nothing(tmp_path: Path, cls) -> None:
    install()
    trainer = make_trainer(tmp_path, cls, max_steps=4, logging_steps=4)
    trainer.train()
    mine = [record for record in records(trainer) if "mine" in record]
    theirs = [record for record in records(trainer) if "mine" not in record]
    assert mine and not any("vista_loss" in record for record in mine)
    assert [record["vista_aligned_samples"] for record in theirs] == [8]


class Silent(Trainer):
    def _maybe_log_save_evaluate(self, *args, **kwargs):
        return None


def test_a_trainer_without_records_is_told(tmp_path: Path, caplog) -> None:
    install()
    with caplog.at_level(logging.WARNING, logger="llava_vista"):
        make_trainer(tmp_path, Silent).train()
    assert "VISTA's averages of these steps are not in the log" in caplog.text


class DPOTrainer(Trainer):
    """Has the name of TRL's trainer."""


class MyPreferences(DPOTrainer):
    pass


def test_other_objectives_are_refused_unless_asked_for(tmp_path: Path) -> None:
    install()
    with pytest.raises(AttachError, match=r"MyPreferences is a DPOTrainer.*chosen and rejected"):
        make_trainer(tmp_path, MyPreferences).train()
    install(VistaConfig(any_objective=True))
    trainer = make_trainer(tmp_path, MyPreferences)
    trainer.train()
    assert {"host_loss", "vista_loss"} <= set(records(trainer)[0])
    assert "ce_loss" not in records(trainer)[0]


def test_a_replacement_under_anothers_turns_inert() -> None:
    class Owner:
        def value(self) -> int:
            return 1

    before = vars(Owner)["value"]
    ours = Replacement(Owner, "value", lambda self: 2)
    assert Owner().value() == 2
    inner = Owner.value
    Owner.value = lambda self: 10 + inner(self)  # another library, afterwards
    assert Owner().value() == 12
    ours.undo()
    assert Owner().value() == 11
    again = Replacement(Owner, "value", lambda self: 3)
    again.undo()
    assert Owner().value() == 11 and before(Owner()) == 1


def test_a_pickle_of_an_attached_model_names_nothing_of_ours(tmp_path: Path) -> None:
    model = build().train()
    plain = model(**make_row(1)).loss
    handle = attach(model, VistaConfig(weight=3.0))
    # the hooks alone: a whole model also names its own class
    hooks = [dict(module._forward_hooks) | dict(module._forward_pre_hooks) for module in model.modules()]
    stored = pickle.dumps([hook for group in hooks for hook in group.values()])
    assert hooks and b"llava_vista" not in stored
    (tmp_path / "hooks.pkl").write_bytes(stored)
    program = (
        "import pickle, sys; sys.modules['llava_vista'] = None\n"
        f"hooks = pickle.load(open({str(tmp_path / 'hooks.pkl')!r}, 'rb'))\n"
        "assert hooks and all(hook(1, 2, 3) is None for hook in hooks)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied(**make_row(1)).loss, plain)
    handle.detach()


def test_a_refused_attach_leaves_no_hook() -> None:
    model = build()
    model.config.is_encoder_decoder = True
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        attach(model)
    model.config.is_encoder_decoder = False
    first = attach(model)
    with pytest.raises(AttachError, match="already attached"):
        attach(model)
    first.detach()
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == before


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ("1", VistaConfig()),
        ("method=cosine,weight=0.5", VistaConfig(method="cosine", weight=0.5)),
        ("text_scope=answer", VistaConfig(text_scope="answer")),
        ("0", None),
    ],
)
def test_the_runner_keeps_the_options_of_the_environment(tmp_path: Path, environment: str, expected) -> None:
    script = tmp_path / "program.py"
    script.write_text("from llava_vista.hooks.request import REQUEST\nprint('config:', REQUEST.config())")
    done = subprocess.run(
        [sys.executable, "-m", "llava_vista", str(script)],
        env={**os.environ, "LLAVA_VISTA": environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"config: {expected}" in done.stdout
