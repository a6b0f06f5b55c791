"""patches/*.diff: git takes and reverses them, and their flags are VistaConfig's options.

scripts/check_patches.sh proves them on checkouts of the upstreams; test_patched_llava.py trains LLaVA with its diff.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from llava_vista import VistaConfig
from llava_vista.config import OPTIONS

PATCHES = Path(__file__).parents[2] / "patches"
NAMES = ("llava", "llava-next", "tinyllava")
CONTEXT = 3
_HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@.*\n((?:[ +-].*\n|\n)+)", re.MULTILINE)

pytestmark = pytest.mark.environments("latest")


def read(name: str) -> str:
    return (PATCHES / f"{name}.diff").read_text(encoding="utf-8")


def hunks(name: str) -> list[tuple[str, int, list[str]]]:
    """Each hunk's file, its first line in the unpatched file (0: a new file), and its lines."""
    found = []
    for part in read(name).split("diff --git ")[1:]:
        file = part.partition(" b/")[2].partition("\n")[0]
        found += [(file, int(first), body.splitlines()) for first, body in _HUNK.findall(part)]
    return found


def added(name: str, file: str | None = None) -> list[str]:
    return [line[1:] for path, _, lines in hunks(name) if file in (None, path) for line in lines if line[0] == "+"]


def unpatched(folder: Path, name: str, moved: int) -> Path:
    """A checkout made of the diff's own context, ``moved`` lines further down, with filler everywhere else."""
    files: dict[str, list[str]] = {}
    for file, first, lines in hunks(name):
        if first:
            text = files.setdefault(file, ["# filler"] * moved)
            text += ["# filler"] * (first - 1 + moved - len(text))
            text += [line[1:] for line in lines if line[0] == " "]
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("\n".join([*text, "# the end", ""]), encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def apply(name: str, folder: Path, *options: str) -> None:
    subprocess.run(["git", "apply", *options, str(PATCHES / f"{name}.diff")], cwd=folder, check=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", ["LF", "CRLF"])
@pytest.mark.parametrize("moved", [0, 40])
def test_git_applies_and_reverses_it(tmp_path, name: str, end: str, moved: int) -> None:
    folder, options = unpatched(tmp_path, name, moved), []
    if end == "CRLF":
        options = ["--ignore-whitespace"]
        for file, data in contents(folder).items():
            (folder / file).write_bytes(data.replace(b"\n", b"\r\n"))
    before = contents(folder)
    apply(name, folder, "--check", *options)
    assert contents(folder) == before
    apply(name, folder, *options)
    after = contents(folder)
    for file in after:
        assert set(added(name, file)) <= set(after[file].decode().splitlines()), file
    assert {file for file, data in after.items() if data != before.get(file)} == {file for file, _, _ in hunks(name)}
    apply(name, folder, "-R", *options)
    assert contents(folder) == before


@pytest.mark.parametrize("name", NAMES)
def test_it_only_adds_lines_and_no_dependency(name: str) -> None:
    for file, first, lines in hunks(name):
        kinds = "".join(line[0] for line in lines)
        assert re.fullmatch(rf" {{{CONTEXT}}}\++ {{{CONTEXT}}}" if first else r"\++", kinds), file
        assert file.endswith((".py", ".md")), f"{file} may name dependencies; llava-vista is on no package index"
    assert "pip install llava-vista" not in read(name)
    text = (PATCHES / f"{name}.md").read_text(encoding="utf-8")
    assert "pip install path/to/llava-vista" in text
    assert f"git apply -R {name}.diff" in text


@pytest.mark.parametrize("name", NAMES)
def test_its_flags_are_the_options_with_their_defaults(name: str) -> None:
    fields = re.findall(r"^ +(vista\w*): (\w+) = field\(default=(.+?), metadata", "\n".join(added(name)), re.MULTILINE)
    options = [(f"vista_{option}", field.default) for option, field in OPTIONS.items()]
    expected = [(flag, type(default).__name__, repr(default)) for flag, default in [("vista", False), *options]]
    assert [(flag, kind, default.replace('"', "'")) for flag, kind, default in fields] == expected


@pytest.mark.parametrize("name", NAMES)
def test_its_own_test_is_python(name: str) -> None:
    compile("\n".join(added(name, "tests/test_vista.py")), "tests/test_vista.py", "exec")


def test_config_from_a_hosts_arguments() -> None:
    class Arguments:
        vista_method = "cosine"
        vista_weight = 0.25
        other = 1

    assert VistaConfig.from_arguments(Arguments()) == VistaConfig(method="cosine", weight=0.25)
