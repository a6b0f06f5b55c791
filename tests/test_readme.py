"""The README: its size, its commands, flags, paths, log keys and Python examples, against the code."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from merging_host import Merging, batch_for, config
from runs import environment
from torch import nn

from llava_vista.adapters import ADAPTERS, find_adapter
from llava_vista.cli import COMMANDS, build_parser
from llava_vista.config import FLAG, FLAG_PREFIX, OPTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return the words of every command in a bash block."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def cells(heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, without its head."""
    section = README.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table[2:]]


def test_size() -> None:
    assert len(README.splitlines()) <= 200
    assert len(README.encode()) <= 16 * 1024
    head = "\n".join(README.splitlines()[:20])
    assert "not run" in head
    assert "none shown" in head
    assert "--vista_weight" in head


def test_every_path_exists() -> None:
    inline = re.findall(r"`([\w./-]+)`", README)
    paths = [word for word in inline if word.startswith(("llava_vista/", "scripts/", "tests/", "patches/"))]
    tree = re.findall(r"^(\w+/)  ", README, re.MULTILINE)
    tree += [f"llava_vista/{name}" for name in re.findall(r"^  (\w+/)  ", README, re.MULTILINE)]
    assert len(paths) > 5
    assert len(tree) > 8
    missing = [path for path in (*paths, *tree, "LICENSE") if not (ROOT / path).exists()]
    assert not missing
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)  # a package index shows their titles only
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)
    assert not re.findall(r"(?<!!)\[[^\]]*\]\((?!https?://)", README)  # a relative link is broken on a package index


def test_every_command_is_known() -> None:
    """Each command of a bash block is one of those that are run or parsed here."""
    for program, *arguments in commands():
        if program == "bash":
            assert (ROOT / arguments[0]).is_file(), arguments
            subprocess.run(["bash", "-n", str(ROOT / arguments[0])], check=True)
        elif program == "llava-vista":
            arguments = [str(ROOT) if word.startswith("path/to/") else word for word in arguments]
            build_parser(arguments[0]).parse_args(arguments)
        else:
            assert [program, arguments[0]] == ["pip", "install"], (program, arguments)
            assert arguments[1].startswith("path/to/llava-vista"), "llava-vista is on no package index"


def test_the_named_extras_exist() -> None:
    extras = re.search(r"path/to/llava-vista\[([\w,]+)\]", README)
    assert extras is not None
    declared = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]", 1)[1].split("\n[", 1)[0]
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = ", declared, re.MULTILINE), extra


def test_doctor_runs_on_a_checkout(tmp_path: Path) -> None:
    """The first command under "Look at the result", on an empty checkout."""
    done = subprocess.run(
        [sys.executable, "-m", "llava_vista.cli", "doctor", str(tmp_path)],
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout


def test_the_tools_are_named() -> None:
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", README), name


def test_flags_and_defaults() -> None:
    rows = {re.match(r"`--(\w+)", flag)[1]: default for flag, default, _ in cells("### Flags")}
    assert rows.pop(FLAG) == "off"
    assert rows.keys() == {f"{FLAG_PREFIX}{name}" for name in OPTIONS}
    for name, option in OPTIONS.items():
        shown = rows[f"{FLAG_PREFIX}{name}"].strip("`")
        assert shown == ("off" if option.default is False else str(option.default))


def test_every_flag_in_the_text_exists() -> None:
    named = set(re.findall(r"--(vista\w*)", README))
    assert named <= {FLAG, *(f"{FLAG_PREFIX}{name}" for name in OPTIONS)}


def test_messages_of_the_troubles_are_in_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8").lower() for path in (ROOT / "llava_vista").rglob("*.py"))
    for message in ("no adapter recognises", "the ranks do not agree on vista", "became nan or infinite"):
        assert message in README.lower()
        assert message in code


def test_log_keys_are_in_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "llava_vista").rglob("*.py"))
    for keys, *_rest in cells("### Log keys"):
        for key in re.findall(r"`(\w+)`", keys):
            assert f'"{key}"' in code or f'"{key.removeprefix("vista_")}"' in code, key


def test_adapters() -> None:
    section = README.split("| model family |", 1)[1].split("\n\n", 1)[0]
    shown = {re.findall(r"`([\w-]+)`", line)[0] for line in section.splitlines()[2:]}
    assert {adapter.name for adapter in ADAPTERS if not adapter.name.startswith("transformers-")} == shown


@pytest.mark.parametrize("words", [["--vista", "--vista_weight", "0.01"], ["--vista", "False"]])
def test_the_launch_flags_are_read(words: list[str]) -> None:
    from llava_vista.hooks.parser import add_flags

    parser = argparse.ArgumentParser()
    add_flags(parser)
    parser.parse_args(words)


class MyLlava(Merging):
    """The model that the adapter example assumes: another name for the merge method, three values returned."""

    def merge_images(self, input_ids, attention_mask, labels, images):
        _, _, mask, _, embeds, labels = Merging.prepare_inputs_labels_for_multimodal(
            self, input_ids, None, attention_mask, None, labels, images
        )
        return embeds, mask, labels

    prepare_inputs_labels_for_multimodal = None

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        embeds, mask, labels = self.merge_images(input_ids, attention_mask, labels, images)
        return super(Merging, self).forward(attention_mask=mask, inputs_embeds=embeds, labels=labels, **kwargs)


def test_the_adapter_example(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = [block for block in blocks("python") if "register_adapter(" in block]
    assert len([line for line in example.splitlines() if line]) <= 12
    MyLlava.__module__, MyLlava.__qualname__ = "my_repo.modeling", "MyLlavaForCausalLM"
    host = ModuleType("my_repo.modeling")
    host.build_model, host.build_batch = lambda: MyLlava(config()), lambda: batch_for(MyLlava)
    monkeypatch.setitem(sys.modules, "my_repo", ModuleType("my_repo"))
    monkeypatch.setitem(sys.modules, "my_repo.modeling", host)
    names: dict[str, object] = {}
    try:
        exec(compile(example, "README.md", "exec"), names)
        torch.manual_seed(0)
        assert find_adapter(host.build_model()).adapter.name == "my-llava"
        names["test_my_llava"]()
    finally:
        ADAPTERS.remove("my-llava")


def test_the_training_loop_example(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [block for block in blocks("python") if "handle = attach(" in block]
    assert len(example.splitlines()) <= 12
    torch.manual_seed(0)
    model: nn.Module = Merging(config()).train()
    batch = batch_for(Merging)
    before = model(**batch).loss
    names: dict[str, object] = {"model": model, "batch": batch}
    exec(compile(example, "README.md", "exec"), names)
    assert (names["loss"] - before).item() != pytest.approx(0, abs=1e-6)
    assert names["term"].requires_grad
    printed = capsys.readouterr().out
    for key in ("vista_loss", "vista_similarity", "vista_aligned_samples", "ce_loss"):
        assert f"'{key}'" in printed
        assert f"`{key}`" in README
