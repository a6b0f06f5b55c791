"""The account of requests: each belongs to its parse, reaches child processes, and is told when nothing acted on it."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_in import Rows, StandInAdapter, build, collate
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from llava_vista import UnsupportedModelError, VistaConfig, attach, install, register_adapter
from llava_vista.adapters import ADAPTERS
from llava_vista.hooks import listen
from llava_vista.hooks.request import REQUEST, read_words

pytestmark = pytest.mark.environments("latest")
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(autouse=True)
def adapter() -> Iterator[None]:
    register_adapter("stand-in")(StandInAdapter)
    yield
    ADAPTERS.remove("stand-in")


def options(folder: Path) -> dict[str, object]:
    return {
        "output_dir": str(folder), "max_steps": 1, "per_device_train_batch_size": 2, "logging_steps": 1,
        "report_to": "none", "use_cpu": True, "save_strategy": "no", "remove_unused_columns": False,
        "disable_tqdm": True,
    }  # fmt: skip


def parse(folder: Path, *words: str) -> TrainingArguments:
    given = [word for name, value in options(folder).items() for word in (f"--{name}", str(value))]
    return HfArgumentParser(TrainingArguments).parse_args_into_dataclasses([*given, *words])[0]


def train(arguments: TrainingArguments) -> dict:
    trainer = Trainer(build(), arguments, train_dataset=Rows(), data_collator=collate)
    trainer.train()
    return trainer.state.log_history[0]


def test_each_trainer_has_the_request_of_its_own_arguments(tmp_path: Path) -> None:
    listen()
    asked, plain = parse(tmp_path / "a", "--vista", "--vista_weight", "0.5"), parse(tmp_path / "b")
    keys = {**options(tmp_path / "c"), "vista-method": "cosine", "vista": True}
    by_dict = HfArgumentParser(TrainingArguments).parse_dict(keys)
    assert "vista_loss" not in train(plain)
    record = train(asked)
    assert record["loss"] == pytest.approx(record["ce_loss"] + 0.5 * record["vista_loss"], abs=2e-4)
    assert REQUEST.config(by_dict[0]) == VistaConfig("cosine")
    assert "vista_loss" not in train(plain)
    assert "vista_loss" in train(asked)  # again, and after another's


def test_copies_of_the_arguments_are_the_same_run_and_others_are_not(tmp_path: Path, caplog) -> None:
    listen()
    asked = parse(tmp_path, "--vista")
    for same in (copy.copy(asked), copy.deepcopy(asked), dataclasses.replace(asked, learning_rate=1e-4)):
        assert REQUEST.config(same) == VistaConfig()
    with caplog.at_level("WARNING", logger="llava_vista"):
        assert REQUEST.config(TrainingArguments(str(tmp_path / "other"), report_to=[])) is None
    assert "without VISTA: --vista asked for it with other training arguments" in caplog.text


def test_arguments_of_no_parse_beside_another_parse_are_told_that_they_train_without(tmp_path: Path, caplog) -> None:
    @dataclasses.dataclass
    class Data:
        path: str = "x"

    listen()
    asked = parse(tmp_path, "--vista")
    HfArgumentParser(Data).parse_dict({})  # it made no training arguments, and asks for nothing
    copied = dataclasses.replace(asked, learning_rate=1e-4)
    del asked  # a copy is the same run, also when the original is gone
    assert REQUEST.config(copied) == VistaConfig()
    with caplog.at_level("WARNING", logger="llava_vista"):
        assert REQUEST.config(TrainingArguments(str(tmp_path / "other"), report_to=[])) is None
    assert "without VISTA: --vista asked for it with other training arguments" in caplog.text


def test_a_child_process_imports_nothing_heavy_to_inherit(tmp_path: Path) -> None:
    """Its configuration may also name a method that the child registers only later."""
    install(VistaConfig("cosine"))
    handed = os.environ["LLAVA_VISTA_REQUEST"].replace("cosine", "registered_later")
    code = "import sys; print('llava_vista.hooks' in sys.modules, 'torch' in sys.modules)"
    environment = {**os.environ, "LLAVA_VISTA_REQUEST": handed}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout.strip(), done.stderr) == ("True False", "")


def test_install_after_a_parse_holds_for_arguments_that_no_parse_made(tmp_path: Path) -> None:
    listen()
    asked = parse(tmp_path / "a", "--vista", "--vista_weight", "0")
    install(VistaConfig(weight=1.0))
    by_hand = TrainingArguments(str(tmp_path / "b"), report_to=[])
    assert REQUEST.config(by_hand) == VistaConfig(weight=1.0)
    assert REQUEST.config(asked) == VistaConfig(weight=0.0)

    @dataclasses.dataclass
    class Own:
        name: str = "x"

    HfArgumentParser(Own).parse_args_into_dataclasses(["--vista", "--vista_method", "cosine"])
    assert REQUEST.config(by_hand) == VistaConfig("cosine")  # it made no training arguments: it speaks for these
    install(VistaConfig(weight=2.0))
    assert REQUEST.config(by_hand) == VistaConfig(weight=2.0)


def test_words_that_a_yaml_program_leaves_unread_still_ask(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "run.yaml", "--vista", "--vista-weight", "0.1"])
    listen()
    (arguments,) = HfArgumentParser(TrainingArguments).parse_dict({**options(tmp_path), "vista_weight": 3, "vista": 1})
    assert REQUEST.config(arguments) == VistaConfig(weight=0.1)  # the command line beats the file
    assert read_words(["--vista=False", "--vista_method", "l2", "--vista_detach_text"]) == {
        "vista": "False", "vista_method": "l2", "vista_detach_text": True,
    }  # fmt: skip


def test_a_text_only_trainer_stops_in_few_words_and_at_weight_zero_trains(tmp_path: Path, monkeypatch, caplog) -> None:
    def text_only() -> Trainer:
        config = LlamaConfig(
            vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
        )
        model = LlamaForCausalLM(config)
        rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4
        return Trainer(model, TrainingArguments(**options(tmp_path)), train_dataset=rows)  # type: ignore[arg-type]

    monkeypatch.setenv("LLAVA_VISTA", "1")
    listen()
    with pytest.raises(UnsupportedModelError, match="LLAVA_VISTA=1 asks for VISTA, but Trainer's model") as caught:
        text_only().train()
    assert len(str(caught.value)) < 1000 and "LLAVA_VISTA=0" in str(caught.value)
    monkeypatch.setenv("LLAVA_VISTA", "weight=0")
    with caplog.at_level("WARNING", logger="llava_vista"):
        trainer = text_only()
        trainer.train()
    assert trainer.state.global_step == 1 and "this training is without VISTA" in caplog.text


# --- whole programs ---

HOST = """
import sys
sys.path.insert(0, {support!r})
import torch
from stand_in import *
from transformers import HfArgumentParser
from llava_vista import register_adapter
register_adapter("stand-in")(StandInAdapter)
def train(*arguments):
    from tempfile import mkdtemp
    trainer = make_trainer(mkdtemp(), max_steps=1, logging_steps=1)
    trainer.train()
    print("WITH" if "vista_loss" in trainer.state.log_history[0] else "WITHOUT", flush=True)
def own_loop():
    model = build().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(**make_row(1)).loss.backward()
    optimizer.step()
    print("LOOPED", flush=True)
"""


def program(folder: Path, text: str, *words: str, runner: bool = False, **environment: str) -> tuple[str, str, int]:
    """Run a program of its own; returns (output, errors, exit code)."""
    path = folder / "program.py"
    path.write_text(HOST.format(support=str(SUPPORT)) + text)
    command = [sys.executable, *(["-m", "llava_vista"] if runner else []), str(path), *words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLAVA_VISTA")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env={**clean, **environment})
    return done.stdout, done.stderr, done.returncode


@pytest.mark.parametrize(
    ("text", "words", "environment", "asker"),
    [
        ("import llava_vista; llava_vista.install(); own_loop()", (), {}, "install()"),
        ("import os; os.environ['LLAVA_VISTA'] = '1'; own_loop()", (), {}, "LLAVA_VISTA=1 was set"),
        ("own_loop()", ("--vista",), {}, "--vista on the command line"),
        ("import argparse; argparse.ArgumentParser().parse_known_args(); own_loop()", ("--vista-weight=1", "--vista"),
         {}, "--vista on the command line"),
        ("own_loop()", (), {"LLAVA_VISTA": "method=cosine"}, "LLAVA_VISTA=method=cosine"),
        ("import argparse; p = argparse.ArgumentParser(); p.add_argument('--vista', type=int); p.parse_args(); "
         "own_loop()", ("--vista", "7"), {"LLAVA_VISTA": "1"}, "LLAVA_VISTA=1, and nothing acted on it"),
    ],
)  # fmt: skip
def test_a_request_that_nothing_acted_on_is_told_at_exit(tmp_path: Path, text, words, environment, asker) -> None:
    output, errors, code = program(tmp_path, text, *words, **environment)
    assert (output.strip(), code) == ("LOOPED", 0)
    assert asker in errors and errors.count("WARNING") == 1, errors


def test_a_configuration_read_by_two_parsers_is_one_request(tmp_path: Path, caplog) -> None:
    """LLaMA-Factory reads its file for Ray's arguments first, and then for the training's."""

    @dataclasses.dataclass
    class RayArguments:
        use_ray: bool = False

    listen()
    keys = {**options(tmp_path), "vista": True}
    HfArgumentParser(RayArguments).parse_dict(keys, allow_extra_keys=True)
    (arguments,) = HfArgumentParser(TrainingArguments).parse_dict(keys)
    assert "vista_loss" in train(arguments)
    with caplog.at_level("WARNING", logger="llava_vista"):
        REQUEST.tell_at_exit()
    assert "nothing acted on it" not in caplog.text


def test_attach_in_an_own_loop_is_not_told(tmp_path: Path) -> None:
    text = "from llava_vista import attach\nmodel = build()\nattach(model)\nown_loop()"
    assert program(tmp_path, text, LLAVA_VISTA="1")[1].count("llava-vista") == 0


SPAWNED = """
if __name__ == "__main__":
    {prepare}
    {start}
"""


@pytest.mark.parametrize(
    ("prepare", "start", "words", "runner"),
    [
        ("from llava_vista import install; install()", "import multiprocessing as mp; "
         "p = mp.get_context('spawn').Process(target=train); p.start(); p.join()", (), False),
        ("from llava_vista.hooks import listen; listen(); HfArgumentParser(TrainingArguments).parse_dict("
         "{'output_dir': '/tmp/unused', 'vista': True})",
         "import torch.multiprocessing as mp; mp.spawn(train, nprocs=1)", (), False),
        ("pass", "import subprocess; subprocess.run([sys.executable, '-c', f'import sys; "
         "sys.path.insert(0, {sys.path[1]!r}); from program import train; train()'], check=True)", (), True),
        ("pass", "import torch.multiprocessing as mp; mp.spawn(train, nprocs=1)", ("--vista",), False),
    ],
)  # fmt: skip
def test_children_train_with_the_request(tmp_path: Path, prepare, start, words, runner) -> None:
    output, errors, code = program(tmp_path, SPAWNED.format(prepare=prepare, start=start), *words, runner=runner)
    assert (output.strip().splitlines()[-1:], code) == (["WITH"], 0), errors
    assert "nothing acted on it" not in errors


@pytest.mark.parametrize(
    "text",
    [
        "import argparse; p = argparse.ArgumentParser(); p.add_argument('--vista', type=int); p.parse_args(); "
        "own_loop()",
        "import argparse; p = argparse.ArgumentParser(); s = p.add_subparsers(); q = s.add_parser('go'); "
        "q.add_argument('--vista'); p.parse_args(['go', *sys.argv[1:]]); train()",
        "import optparse; p = optparse.OptionParser(); p.add_option('--vista'); p.parse_args(); "
        "m = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, "
        "num_hidden_layers=1, num_attention_heads=1)); Trainer(m, arguments('/tmp/unused_out', max_steps=1), "
        "train_dataset=[{'input_ids': [1, 2], 'labels': [1, 2]}] * 4).train(); print('WITHOUT')",
    ],
)  # fmt: skip
def test_a_program_with_such_an_option_of_its_own_runs_as_without(tmp_path: Path, text: str) -> None:
    output, errors, code = program(tmp_path, text, "--vista", "7")
    assert code == 0 and output.strip().splitlines()[-1] in ("LOOPED", "WITHOUT"), errors
    if "optparse" not in text:  # there only the word itself can be seen, and one line says that it was not read
        assert "VISTA" not in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vista", "--vista_method", "l3"), "unknown VISTA method 'l3'; known: cosine, infonce, l2"),
        (("--vista", "--vista_wieght", "1"), "--vista_wieght is not known; did you mean --vista_weight?"),
        (("--vista", "--vista-weight=heavy"), "--vista_weight: VISTA weight must be a number, got 'heavy'"),
        (("--no-vista",), "--no-vista is not known; --vista False switches VISTA off"),
        (("--vista", "seldom"), "--vista must be true or false, got 'seldom'"),
    ],
)
def test_a_mistake_on_the_command_line_is_two_lines_and_exit_code_2(tmp_path: Path, words, message) -> None:
    text = (
        "from transformers import HfArgumentParser\nHfArgumentParser(TrainingArguments).parse_args_into_dataclasses()"
    )
    _, errors, code = program(tmp_path, text, "--output_dir", "x", *words)
    assert code == 2 and message in errors
    assert len(errors.strip().splitlines()) == 2


def test_the_runner_names_subcommands_and_mistakes(tmp_path: Path) -> None:
    _, errors, code = program(tmp_path, "", runner=True, LLAVA_VISTA="metod=l2")
    assert code == 2 and "did you mean method?" in errors and "Traceback" not in errors
    command = [sys.executable, "-m", "llava_vista", "doctor", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "usage: llava-vista doctor" in done.stdout


def test_the_program_that_attaches_itself_is_not_told(tmp_path: Path) -> None:
    install()
    attach(build()).detach()
    REQUEST.tell_at_exit()
