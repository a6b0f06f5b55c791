"""Weight 0 observes: weights, log, random state and device reads are the baseline's, whatever the training does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in import Rows, StandIn, StandInAdapter, arguments, build, collate
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainerCallback

from llava_vista import VistaConfig, attach, install, register_adapter, uninstall
from llava_vista.adapters import ADAPTERS

pytestmark = pytest.mark.environments("latest")
#: Operations that wait for the device, or whose result's shape must be read from it.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_consecutive")


@pytest.fixture(autouse=True)
def adapter() -> Iterator[None]:
    register_adapter("stand-in")(StandInAdapter)
    yield
    ADAPTERS.remove("stand-in")


class Reads(TorchDispatchMode):
    """Counts operations that read the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in READS or (name == "index" and any(_is_mask(item) for item in args[1])):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


class Generates(TrainerCallback):
    """Generates in training mode and in evaluation mode, as a callback that shows samples does."""

    def __init__(self) -> None:
        self.texts: list[torch.Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: StandIn, **kwargs: Any) -> None:
        for mode in (True, False):
            ids = torch.tensor([[5, 6, 7]])
            self.texts.append(model.train(mode).generate(ids, max_new_tokens=4, do_sample=True, pad_token_id=0))
        model.train()


def run(folder: Path, scenario: str) -> tuple[torch.Tensor, list[dict], torch.Tensor, Any]:
    rows, callbacks, more = Rows(), [], {}
    model: Any = build()
    if scenario == "accumulation":
        more = {
            "gradient_accumulation_steps": 3,
            "per_device_train_batch_size": 1,
            "num_train_epochs": 1,
            "max_steps": -1,
        }
    if scenario == "evaluation":
        more = {"eval_strategy": "steps", "eval_steps": 1}
    if scenario == "generate":
        callbacks = [Generates()]
    if scenario == "compile":
        model.forward = torch.compile(model.forward, backend="eager")
    if scenario == "non-finite":
        rows.rows[3]["images"] = torch.full_like(rows.rows[3]["images"], torch.inf)
        more = {"max_grad_norm": 0.0}
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_full_backward_hook(_finite)
    torch.manual_seed(11)
    trainer = Trainer(
        model, arguments(folder, logging_steps=2, **more), train_dataset=rows, eval_dataset=Rows(length=4),
        data_collator=collate, callbacks=callbacks,
    )  # fmt: skip
    trainer.train()
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return weights, trainer.state.log_history, torch.get_rng_state(), callbacks


def _finite(module: Any, grad_input: Any, grad_output: Any) -> Any:
    return tuple(None if grad is None else torch.nan_to_num(grad, 0.0, 0.0, 0.0) for grad in grad_input)


SCENARIOS = ("plain", "accumulation", "evaluation", "generate", "compile", "non-finite")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_run_is_the_baseline_bit_for_bit(tmp_path: Path, scenario: str) -> None:
    plain = run(tmp_path / "plain", scenario)
    install(VistaConfig(weight=0.0))
    observed = run(tmp_path / "observed", scenario)
    uninstall()
    again = run(tmp_path / "again", scenario)
    for other in (observed, again):
        assert torch.equal(torch.nan_to_num(other[0]), torch.nan_to_num(plain[0]))
        assert torch.equal(other[2], plain[2])
        for mine, theirs in zip(other[1], plain[1], strict=True):
            for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
                assert str(mine.get(key)) == str(theirs.get(key)), key
    for mine, theirs in zip(observed[3], plain[3], strict=True):
        assert all(map(torch.equal, mine.texts, theirs.texts))
    assert any("vista_loss" in record for record in observed[1])
    assert not any("vista_loss" in record for record in again[1])


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("window", [1, 2])
def test_the_device_is_read_at_log_steps_only(tmp_path: Path, weight: float, window: int) -> None:
    """Longer trainings with one log record read the device as often more as the baseline does."""

    def reads(steps: int) -> Counter[str]:
        trainer = Trainer(
            build(), arguments(tmp_path, max_steps=steps, logging_steps=100, gradient_accumulation_steps=window),
            train_dataset=Rows(), data_collator=collate,
        )  # fmt: skip
        with Reads() as counted:
            trainer.train()
        return counted.found

    before = reads(6) - reads(2)
    install(VistaConfig(weight=weight))
    assert reads(6) - reads(2) == before


def test_two_arms_in_one_process(tmp_path: Path) -> None:
    """Observed and trained side by side: neither changes the other, and the observed one is the baseline."""
    plain = run(tmp_path / "plain", "plain")
    install(VistaConfig(weight=1.0))
    other = build(1)
    handle = attach(other.train(), VistaConfig(weight=0.0))
    batch = collate([Rows().rows[0]])
    loss = other(**batch).loss
    acted = run(tmp_path / "acted", "plain")
    assert torch.equal(other(**batch).loss, loss)
    handle.detach()
    uninstall()
    install(VistaConfig(weight=0.0))
    observed = run(tmp_path / "observed", "plain")
    assert torch.equal(observed[0], plain[0]) and not torch.equal(acted[0], plain[0])


def test_what_would_stop_a_training_is_one_warning(tmp_path: Path, monkeypatch, caplog) -> None:
    """Here: ranks that do not agree, found when training begins. The callbacks are as before."""
    from llava_vista import ConfigError
    from llava_vista.hooks import trainer_session

    def disagree(config: VistaConfig) -> None:
        raise ConfigError("the ranks do not agree on VISTA")

    monkeypatch.setattr(trainer_session, "agree", disagree)
    trainer = Trainer(build(), arguments(tmp_path), train_dataset=Rows(), data_collator=collate)
    before = list(trainer.callback_handler.callbacks)
    install(VistaConfig(weight=0.0))
    with caplog.at_level("WARNING", logger="llava_vista"):
        trainer.train()
    warnings = [record for record in caplog.records if record.name == "llava_vista"]
    assert len(warnings) == 1 and "VISTA does nothing further" in caplog.text
    assert trainer.callback_handler.callbacks == before
    install(VistaConfig(weight=1.0))
    with pytest.raises(ConfigError, match="do not agree"):
        trainer.train()
    assert trainer.callback_handler.callbacks == before


@pytest.mark.parametrize(
    "options", [{"config": VistaConfig(weight=0.0)}, {"add_to_loss": False}], ids=["0", "observed"]
)
def test_an_observer_in_an_own_loop_stops_nothing(options: dict, caplog) -> None:
    """A training forward without labels, and a host that calls the decoder's forward past its hooks."""
    model, batch = build().train(), collate([Rows().rows[0]])
    expected = model(**batch).loss
    handle = attach(model, **options)
    assert torch.equal(model(**batch).loss, expected)
    assert model(input_ids=batch["input_ids"].clamp(min=0), labels=None).loss is None
    with caplog.at_level("WARNING", logger="llava_vista"):
        model.model = _Bypass(model.model)
        assert torch.equal(model(**batch).loss, expected)
    assert "VISTA observes nothing in such a forward" in caplog.text
    handle.detach()


class _Bypass(torch.nn.Module):
    """Calls the decoder's forward, where no hook fires."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.decoder, self.embed_tokens = decoder, decoder.embed_tokens

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.decoder).forward(self.decoder, *args, **kwargs)
