"""Training under transformers.Trainer with the real LLaVA model: the flag end to end, and what is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import COMMON, HERE, SCRIPT, STEPS, equal, history, run, weights
from tiny_llava import build
from tiny_train import ModelArguments, arguments, make_trainer
from transformers import Trainer, TrainerCallback

from llava_vista import VistaConfig, install

pytestmark = pytest.mark.environments("llava")


def run_script(output: Path, tower: str, *words: str, before: tuple[str, ...] = (), **environment: str) -> str:
    """Run the script as a user would; returns what it printed."""
    return run(
        [
            sys.executable, *before, str(SCRIPT), "--tower", tower, "--images_per_row", "12", "--output_dir",
            str(output), "--max_steps", str(STEPS), "--per_device_train_batch_size", "2", "--logging_steps", "2",
            "--learning_rate", "1e-3", "--save_strategy", "no", *COMMON, *words,
        ],
        **environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def baseline(tower_path, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("baseline")
    run_script(output, tower_path)
    return output


@pytest.fixture(scope="module")
def flagged(tower_path, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("flagged")
    (output / "said.txt").write_text(run_script(output, tower_path, "--vista"))
    return output


def test_flag_absent_is_bit_identical_to_not_installed(tower_path, baseline, tmp_path) -> None:
    """With -S no .pth file is processed, so this editable install is not even importable."""
    import transformers

    site = Path(transformers.__file__).parent.parent
    runner = tmp_path / "runner.py"
    runner.write_text(
        "import sys, runpy, importlib.util\n"
        f"sys.path.append({str(site)!r})\n"
        "if importlib.util.find_spec('llava_vista') is not None: raise SystemExit('llava_vista is importable')\n"
        "sys.argv = sys.argv[1:]\nsys.path.insert(0, sys.path.pop(0))\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    output = tmp_path / "without"
    run_script(output, tower_path, before=("-S", str(runner)))
    assert equal(weights(output), weights(baseline))
    assert history(output) == history(baseline)


def test_flag_absent_imports_nothing_of_ours(tower_path, tmp_path) -> None:
    assert "HOOKS False" in run_script(tmp_path, tower_path, SHOW_MODULES="1")
    assert not (tmp_path / "vista.json").exists()


def test_flag_trains_with_vista(tower_path, baseline, flagged) -> None:
    records, plain = history(flagged, "loss"), history(baseline, "loss")
    assert len(records) == STEPS // 2
    for record in records:
        assert record["loss"] == pytest.approx(record["ce_loss"] + record["vista_loss"], abs=2e-4)
        assert record["vista_similarity"] < 0
        assert record["vista_aligned_samples"] > 0
    assert records[-1]["vista_loss"] < records[0]["vista_loss"]  # it is trained on
    assert set(records[0]) - set(plain[0]) == {
        "vista_loss", "vista_similarity", "vista_aligned_samples", "ce_loss", "vista_margin", "vista_own_first",
        "vista_own_first_chance",
    }  # fmt: skip
    assert set(plain[0]) - set(records[0]) == set()
    assert weights(flagged).keys() == weights(baseline).keys()
    assert not equal(weights(flagged), weights(baseline))
    said = (flagged / "said.txt").read_text()
    assert said.count("[llava-vista] VISTA enabled: method=l2 weight=1.0") == 1
    assert "LlavaLlamaForCausalLM (adapter llava)" in said
    assert "decoder model (LlavaLlamaModel)" in said
    record = json.loads((flagged / "vista.json").read_text())
    assert record["config"] == VistaConfig().to_dict()
    assert record["adapter"] == "llava"
    assert record["versions"]["transformers"]


def test_checkpoint_loads_and_generates_without_llava_vista(flagged) -> None:
    """In a process that has no llava_vista, with stock LLaVA."""
    import transformers

    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import torch\nfrom llava.model import LlavaLlamaForCausalLM\n"
        "model = LlavaLlamaForCausalLM.from_pretrained(sys.argv[2]); model.get_vision_tower().load_model()\n"
        "ids = torch.tensor([[5, -200, 7, 8]])\n"
        "out = model.generate(ids, images=torch.zeros(1, 3, 16, 16), max_new_tokens=4, min_new_tokens=4)\n"
        "print('GENERATED', out.shape[1], 'llava_vista' in sys.modules)\n"
    )
    site = str(Path(transformers.__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-S", "-c", code, site, str(flagged)], capture_output=True, text=True, timeout=200
    )
    assert "GENERATED 5 False" in result.stdout or "GENERATED 4 False" in result.stdout, result.stderr[-3000:]


@pytest.mark.parametrize(
    ("before", "words", "environment"),
    [
        ((), (), {"LLAVA_VISTA": "1"}),
        (("-m", "llava_vista"), (), {}),
        (("-m", "llava_vista", "--local_rank=0"), (), {}),
    ],
    ids=["environment", "runner", "runner-under-deepspeed-launcher"],
)
def test_other_ways_to_switch_on_are_the_same(tower_path, flagged, tmp_path, before, words, environment) -> None:
    run_script(tmp_path, tower_path, *words, before=before, **environment)
    assert equal(weights(tmp_path), weights(flagged))
    assert history(tmp_path) == history(flagged)


def test_switched_off_on_the_command_line_is_the_baseline(tower_path, baseline, tmp_path) -> None:
    run_script(tmp_path, tower_path, "--vista", "False", LLAVA_VISTA="method=cosine")
    assert equal(weights(tmp_path), weights(baseline))
    assert history(tmp_path) == history(baseline)


def test_weight_zero_is_the_baseline_bit_for_bit(tower_path, baseline, tmp_path) -> None:
    said = run_script(tmp_path, tower_path, "--vista", "--vista_weight", "0")
    assert equal(weights(tmp_path), weights(baseline))
    for ours, theirs in zip(history(tmp_path, "loss"), history(baseline, "loss"), strict=True):
        assert {key: ours[key] for key in theirs} == theirs
        assert ours["ce_loss"] == pytest.approx(ours["loss"], abs=1e-4)
        assert ours["vista_loss"] > 0
    assert "weight=0.0" in said and "observed only" in said


# --- in this process, to look closer ---


def trainer_state(trainer: Trainer) -> dict:
    return {
        "trainer": {key: value for key, value in vars(trainer).items() if callable(value)},
        "class": {cls: dict(vars(cls)) for cls in type(trainer).__mro__ if cls is not object},
        "model": {cls: dict(vars(cls)) for cls in type(trainer.model).__mro__ if cls is not object},
        "hooks": [
            dict(hooks)
            for module in trainer.model.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ],
        "callbacks": list(trainer.callback_handler.callbacks),
    }


def test_everything_is_taken_off_after_training(tower_path, tmp_path) -> None:
    trainer = make_trainer(ModelArguments(tower_path), arguments(tmp_path))
    before = trainer_state(trainer)
    install()
    trainer.train()
    assert trainer.state.log_history[0]["vista_loss"] > 0
    from llava_vista import uninstall

    uninstall()
    after = trainer_state(trainer)
    for key, value in before.items():
        assert after[key] == value, key


def test_everything_is_taken_off_after_an_exception_in_a_step(tower_path, tmp_path) -> None:
    trainer = make_trainer(ModelArguments(tower_path), arguments(tmp_path))

    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise RuntimeError("out of coffee")

    trainer.add_callback(Fail())
    before = trainer_state(trainer)
    install()
    with pytest.raises(RuntimeError, match="out of coffee"):
        trainer.train()
    from llava_vista import uninstall

    uninstall()
    after = trainer_state(trainer)
    for key, value in before.items():
        assert after[key] == value, key


def test_accumulation_equals_one_large_batch(tower_path, tmp_path) -> None:
    gradients = {}
    for name, (size, k) in {"large": (4, 1), "accumulated": (1, 4)}.items():
        trainer = make_trainer(
            ModelArguments(tower_path, images_per_row="1"),
            arguments(
                tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=k,
                logging_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant",
            ),
        )  # fmt: skip
        start = {key: value.clone() for key, value in trainer.model.named_parameters()}
        install(VistaConfig(weight=2.0))
        trainer.train()
        gradients[name] = {key: start[key] - value for key, value in trainer.model.named_parameters()}
        record = trainer.state.log_history[0]
        assert record["loss"] == pytest.approx(record["ce_loss"] + 2 * record["vista_loss"], abs=2e-4)
    scale = max(value.abs().max() for value in gradients["large"].values())
    for key, value in gradients["large"].items():
        assert (value - gradients["accumulated"][key]).abs().max() <= 1e-5 * scale, key


def test_no_host_sync_between_logs(tower_path, tmp_path, monkeypatch) -> None:
    """After the first step, which proves the merge, only the log reads a tensor on the host from this package."""
    import llava_vista

    root = str(Path(llava_vista.__file__).parent)
    calls: list[tuple[int, str]] = []
    trainer = make_trainer(ModelArguments(tower_path), arguments(tmp_path, max_steps=10, logging_steps=10))

    def guarded(name):
        original = getattr(torch.Tensor, name)

        def method(self, *args, **kwargs):
            frame = sys._getframe(1)
            if frame.f_code.co_filename.startswith(root):
                calls.append((trainer.state.global_step, frame.f_code.co_name))
            return original(self, *args, **kwargs)

        return method

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, guarded(name))
    install()
    trainer.train()
    later = [name for step, name in calls if step > 0]
    # `_cut` asks a CPU's tensors alone.
    assert set(later) <= {"_collect", "_cut"}, later
    assert later.count("_collect") <= 2  # the one log, and the end of training
    assert [name for step, name in calls if step == 0].count("check_order") == 1


def test_evaluation_during_training_is_not_counted(tower_path, tmp_path) -> None:
    trainer = make_trainer(
        ModelArguments(tower_path, "1"),
        arguments(tmp_path, evaluation_strategy="steps", eval_steps=1, logging_steps=3),
    )
    trainer.eval_dataset = torch.utils.data.Subset(trainer.train_dataset, range(4))
    install()
    trainer.train()
    records = [record for record in trainer.state.log_history if "loss" in record]
    assert [record["vista_aligned_samples"] for record in records] == [6, 6]
    evaluations = [record for record in trainer.state.log_history if "eval_loss" in record]
    assert len(evaluations) == STEPS
    assert not any("vista_loss" in record for record in evaluations)


def test_trainer_that_makes_its_model_itself(tower_path, tmp_path) -> None:
    base = make_trainer(ModelArguments(tower_path, "1"), arguments(tmp_path))
    trainer = Trainer(
        model_init=lambda: build("llama", tower_path), args=base.args, train_dataset=base.train_dataset,
        data_collator=base.data_collator,
    )  # fmt: skip
    install()
    trainer.train()
    assert trainer.state.log_history[0]["vista_aligned_samples"] == 4


def test_trainer_that_starts_over(tower_path, tmp_path) -> None:
    """auto_find_batch_size runs the training loop again after an out-of-memory error."""
    trainer = make_trainer(ModelArguments(tower_path, "1"), arguments(tmp_path, auto_find_batch_size=True))
    collate, calls = trainer.data_collator, []

    def too_large_at_first(rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise RuntimeError("CUDA out of memory.")
        return collate(rows)

    trainer.data_collator = too_large_at_first
    install()
    trainer.train()
    assert calls[0] == 2
    assert calls[-1] == 1
    assert trainer.state.log_history[-2]["vista_aligned_samples"] == 2
    assert "compute_loss" not in vars(trainer)
