"""``llava-vista``: how it takes a subcommand's arguments, what its errors look like, and what it imports."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import types

import pytest

import llava_vista
from llava_vista import cli


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A subcommand ``try`` whose ``run`` the test sets."""
    module = types.ModuleType("llava_vista.try_command")
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "try", ("try_command", "for the test"))
    return module


def test_command_gets_its_arguments_and_gives_its_code(command):
    command.run = lambda args: args.number
    assert cli.main(["try", "--number", "3"]) == 3
    command.run = lambda args: None
    assert cli.main(["try"]) == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (llava_vista.ConfigError("two\nlines"), "two lines"),
        (ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib"), "matplotlib is not installed"),
        (FileNotFoundError(2, "No such file or directory", "data.json"), "data.json"),
    ],
)
def test_errors_of_the_user_are_one_line(command, capsys, error, message):
    def run(args: argparse.Namespace) -> int:
        raise error

    command.run = run
    assert cli.main(["try"]) == 2
    written = capsys.readouterr()
    assert written.out == "" and written.err.count("\n") == 1
    assert written.err.startswith("llava-vista: error: ") and message in written.err


def test_defects_are_not_hidden(command):
    def run(args: argparse.Namespace) -> int:
        raise ModuleNotFoundError("No module named 'llava_vista.lost'", name="llava_vista.lost")

    command.run = run
    with pytest.raises(ModuleNotFoundError):
        cli.main(["try"])


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["--help"], 0), ([], 2), (["nonsense"], 2)])
def test_parser_exits(capsys, words, code):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(words)
    assert exit_info.value.code == code
    if words == ["--version"]:
        assert capsys.readouterr().out == f"llava-vista {llava_vista.__version__}\n"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_states_defaults_and_an_example_that_parses(name):
    parser = cli.build_parser(name)
    subparser = parser._subparsers._group_actions[0].choices[name]
    text = subparser.format_help()
    example = re.search(rf"^  (?:[A-Z_]+=\S+ )*llava-vista ({name} .+)$", text, re.MULTILINE)
    given = parser.parse_args(example[1].split())
    assert given.run is not None
    options = re.split(r"\n  (?=-)", text.partition("\noptions:")[2])
    for action in subparser._actions:
        if action.option_strings and action.default not in (None, False, [], argparse.SUPPRESS):
            assert any(action.option_strings[-1] in option and "default" in option for option in options)


@pytest.mark.parametrize("name", ["doctor"])
def test_command_line_imports_nothing_heavy(name):
    code = (
        "import sys\nfrom llava_vista import cli\ncli.build_parser(sys.argv[1])\n"
        "print(*{'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr.strip()) == ("", "")
