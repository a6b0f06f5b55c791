"""The parser hook and the watcher behind it, on whatever transformers is installed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llava_vista import ConfigError, VistaConfig, install, uninstall
from llava_vista.hooks import listen, post_import
from llava_vista.hooks.request import REQUEST


@dataclass
class HostArguments:
    name: str = field(default="x")
    size: int = field(default=1)


@dataclass
class MoreArguments:
    vision_tower: str | None = field(default=None)


@pytest.fixture
def parser_class():
    from transformers import HfArgumentParser

    return HfArgumentParser


def test_host_gets_its_tuple(parser_class) -> None:
    listen()
    parser = parser_class((HostArguments, MoreArguments))
    words = ["--name", "y", "--vista", "--vista_method", "cosine", "--vision_tower", "clip"]
    assert parser.parse_args_into_dataclasses(words) == (HostArguments("y"), MoreArguments("clip"))
    assert REQUEST.config() == VistaConfig("cosine")


@pytest.mark.parametrize("words", [["--vista"], ["--vista", "True"], ["--vista=yes"], ["--vista", "--size", "2"]])
def test_bare_and_valued_switch(parser_class, words: list[str]) -> None:
    listen()
    (host,) = parser_class(HostArguments).parse_args_into_dataclasses(words)
    assert host == HostArguments(size=2 if "--size" in words else 1)
    assert REQUEST.config() == VistaConfig()


def test_switched_off(parser_class, monkeypatch) -> None:
    monkeypatch.setenv("LLAVA_VISTA", "1")
    listen()
    parser_class(HostArguments).parse_args_into_dataclasses(["--vista", "False"])
    assert REQUEST.config() is None


@pytest.mark.parametrize("suffix", ["dict", "json", "yaml"])
def test_configuration_keys(parser_class, tmp_path: Path, suffix: str) -> None:
    listen()
    keys = {"name": "z", "vista": True, "vista_weight": 0.25}
    parser = parser_class(HostArguments)
    path = tmp_path / f"c.{suffix}"
    path.write_text(json.dumps(keys))  # JSON is YAML
    parse = {
        "dict": lambda: parser.parse_dict(keys),
        "json": lambda: parser.parse_json_file(str(path)),
        "yaml": lambda: parser.parse_yaml_file(str(path)),
    }[suffix]
    assert parse() == (HostArguments("z"),)
    assert keys["vista"] is True  # the caller's dict is not edited
    assert REQUEST.config() == VistaConfig(weight=0.25)


def test_remaining_strings_and_unknown_flags(parser_class) -> None:
    listen()
    parser = parser_class(HostArguments)
    result = parser.parse_args_into_dataclasses(["--vista", "--other", "1"], return_remaining_strings=True)
    assert result == (HostArguments(), ["--other", "1"])
    with pytest.raises(ValueError, match="vista_metod"):
        parser.parse_args_into_dataclasses(["--vista", "--vista_metod", "l2"])
    with pytest.raises(ValueError, match="vista_metod"):
        parser.parse_dict({"vista": True, "vista_metod": "l2"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vista", "--vista_method", "l3"], "known: cosine, infonce, l2"),
        (["--vista", "--vista_weight", "-1"], "not negative"),
        (["--vista", "--vista_position_weighting", "up"], "known: linear, uniform"),
        (["--vista_weight", "1"], "not switched on"),
    ],
)
def test_bad_values_stop_in_the_parser(parser_class, words: list[str], message: str) -> None:
    listen()
    with pytest.raises(ConfigError, match=message):
        parser_class(HostArguments).parse_args_into_dataclasses(words)


def test_contradiction_is_said_once(parser_class, monkeypatch, caplog) -> None:
    monkeypatch.setenv("LLAVA_VISTA", "weight=0.5")
    listen()
    with caplog.at_level("INFO", logger="llava_vista"):
        parser_class(HostArguments).parse_args_into_dataclasses(["--vista", "--vista_weight", "2"])
        REQUEST.config(), REQUEST.config()
    assert [record.getMessage() for record in caplog.records] == [
        "--vista_weight 2.0 on the command line beats weight=0.5 in LLAVA_VISTA."
    ]


def test_help_shows_a_group(parser_class, capsys) -> None:
    listen()
    with pytest.raises(SystemExit):
        parser_class(HostArguments).parse_args_into_dataclasses(["--vista", "--help"])
    text = capsys.readouterr().out
    group = text[text.index("VISTA:") :]
    for flag in ("--vista ", "--vista_method", "--vista_weight", "--vista_position_weighting", "--vista_text_scope"):
        assert flag in group
    assert "(default: l2)" in group
    assert "SUPPRESS" not in text


def test_program_with_such_a_flag_of_its_own_keeps_it(parser_class, caplog) -> None:
    @dataclass
    class Own:
        vista: str = field(default="hill")

    listen()
    with caplog.at_level("WARNING", logger="llava_vista"):
        assert parser_class(Own).parse_args_into_dataclasses(["--vista", "sea"]) == (Own("sea"),)
        assert parser_class(Own).parse_dict({"vista": "sea"}) == (Own("sea"),)
    assert "flags of its own named --vista" in caplog.text
    assert REQUEST.config() is None


@dataclass
class PatchedArguments:
    """A host's arguments after a diff of patches/, of a version with fewer options."""

    name: str = field(default="x")
    vista: bool = field(default=False)
    vista_method: str = field(default="l2")
    vista_weight: float = field(default=1.0)


@pytest.mark.parametrize(
    ("words", "environment", "expected", "once"),
    [
        ("--vista", None, VistaConfig(), True),
        (
            "--vista --vista_method cosine --vista_text_scope answer",
            None,
            VistaConfig("cosine", text_scope="answer"),
            True,
        ),
        ("--name y", None, None, False),
        ("--name y", "weight=0.5", VistaConfig(weight=0.5), False),
        ("--vista", "1", VistaConfig(), True),
        ("--vista False", "1", None, False),
        ("--vista", "0", VistaConfig(), True),
    ],
)
def test_patch_and_flag_are_one(parser_class, monkeypatch, caplog, words, environment, expected, once) -> None:
    """A natively patched host, with the start-up hook live: the host acts on its flags, and it comes to one request."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words.split()])
    if environment is not None:
        monkeypatch.setenv("LLAVA_VISTA", environment)
    listen()
    with caplog.at_level("INFO", logger="llava_vista"):
        (host,) = parser_class(PatchedArguments).parse_args_into_dataclasses()
        if host.vista:
            install(VistaConfig.from_arguments(host))
        assert REQUEST.config() == expected
        assert REQUEST.config() == expected
    assert caplog.text.count("VISTA is applied once") == once
    assert "leaves them to it" not in caplog.text


def test_flags_that_mean_something_else_are_not_read(parser_class, monkeypatch) -> None:
    @dataclass
    class Own:
        vista: str = field(default="hill")

    monkeypatch.setattr(sys, "argv", ["train.py", "--vista", "sea"])
    listen()
    assert parser_class(Own).parse_args_into_dataclasses() == (Own("sea"),)
    assert REQUEST.config() is None


def test_install_and_uninstall_restore_the_classes() -> None:
    from transformers import HfArgumentParser, Trainer

    before = {cls: dict(vars(cls)) for cls in (HfArgumentParser, Trainer)}
    finders = list(sys.meta_path)
    install(VistaConfig("cosine"))
    install(VistaConfig("cosine", 0.5))  # replaces the configuration, patches nothing twice
    assert dict(vars(Trainer)) != before[Trainer]
    assert REQUEST.config() == VistaConfig("cosine", 0.5)
    uninstall()
    uninstall()
    for cls, content in before.items():
        assert dict(vars(cls)) == content
    assert sys.meta_path == finders
    assert REQUEST.config() is None


def test_watching_a_module_not_yet_imported(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "host_module_xyz.py").write_text("value = 1\n")
    (tmp_path / "hook_module_xyz.py").write_text(
        "def apply(module):\n    module.value = 2\n    def undo():\n        module.value = 1\n    return undo\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    post_import.watch("host_module_xyz", "hook_module_xyz")
    module = importlib.import_module("host_module_xyz")
    assert module.value == 2
    assert "exec_module" not in vars(module.__spec__.loader)
    post_import.unwatch_all()
    assert module.value == 1


def test_script_with_another_parser_is_served(monkeypatch) -> None:
    """No HfArgumentParser: our part of the command line is read when the trainer asks."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "1", "--vista", "--vista_weight=0.5", "--epochs", "3"])
    listen()
    assert REQUEST.config() == VistaConfig(weight=0.5)


def test_asked_for_but_never_trained_is_said_at_exit(tmp_path: Path) -> None:
    script = tmp_path / "evaluate.py"
    script.write_text(
        "from dataclasses import dataclass\nfrom transformers import HfArgumentParser, Trainer\n"
        "@dataclass\nclass A:\n    x: int = 1\n"
        "print(HfArgumentParser(A).parse_args_into_dataclasses())\n"
    )
    result = subprocess.run([sys.executable, str(script), "--vista"], capture_output=True, text=True, check=True)
    assert "(A(x=1),)" in result.stdout
    assert "VISTA was asked for by --vista, and nothing acted on it" in result.stderr
    off = subprocess.run([sys.executable, str(script), "--vista", "0"], capture_output=True, text=True, check=True)
    assert "VISTA was asked for" not in off.stderr
