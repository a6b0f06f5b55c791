"""`llava-vista patch` on made-up checkouts: the anchors of each upstream between lines of our own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from llava_vista import VistaConfig
from llava_vista.cli import main
from llava_vista.config import OPTIONS
from llava_vista.tools.patch import lines, repository
from llava_vista.tools.patch.upstreams import Edit, NewFile, Upstream, known

ROOT = Path(__file__).parents[2]
UPSTREAMS = {upstream.name: upstream for upstream in known()}


def checkout(folder: Path, name: str = "llava", end: str = "\n", *, moved: int = 0, last: str = "# the end") -> Path:
    """Files that hold an upstream's anchors and evidence; ``moved`` more lines stand before each anchor."""
    upstream = UPSTREAMS[name]
    texts: dict[str, list[str]] = {}
    for piece in upstream.pieces:
        if isinstance(piece, Edit):
            texts.setdefault(piece.file, ["# -*- caf\u00e9 -*-"])
            indentation = "    " if piece.part == "code" else ""
            texts[piece.file] += [f"# fork {number}" for number in range(moved)]
            texts[piece.file] += [f"{indentation}{piece.anchor}", "", ""]
    for file, text, present in upstream.evidence:
        texts.setdefault(file, [])
        if present:
            texts[file].append(f"# {text}")
    for file, content in texts.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(end.join([*content, last]).encode())
    return folder


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git" not in path.parts
    }


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.autocrlf=false")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> Path:
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    return folder


def patch(action: str, folder: Path, *words: str) -> int:
    return main(["patch", action, "--repo", str(folder), *words])


@pytest.mark.parametrize("name", UPSTREAMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("moved", [0, 40])
def test_apply_and_reverse(tmp_path, capsysbinary, name: str, end: str, moved: int) -> None:
    folder = commit(checkout(tmp_path / "repo", name, end, moved=moved))
    twin = commit(checkout(tmp_path / "twin", name, end, moved=moved))
    before = content(folder)
    os.chmod(next(folder.rglob("train.py")), 0o755)
    before = content(folder)

    assert patch("check", folder) == 0
    assert content(folder) == before
    assert b"goes in" in capsysbinary.readouterr().err

    assert patch("apply", folder) == 0
    printed = capsysbinary.readouterr().out
    after = content(folder)
    for file, (data, mode) in before.items():
        assert after[file][1] == mode, file
        if data != after[file][0]:
            assert data.count(b"\r\n") == (data.count(b"\n") if end == "\r\n" else 0)
            assert after[file][0].count(b"\r\n") == (after[file][0].count(b"\n") if end == "\r\n" else 0)
    assert git(folder, "status", "--porcelain", "--untracked-files=all").count("\n") == printed.count(b"diff --git")

    # the printed diff is one that git takes, and it gives the same files
    (tmp_path / "sent.diff").write_bytes(printed)
    git(twin, "apply", str(tmp_path / "sent.diff"))
    assert {file: data for file, (data, _) in content(twin).items()} == {
        file: data for file, (data, _) in after.items()
    }

    assert patch("apply", folder) == 0  # idempotent
    captured = capsysbinary.readouterr()
    assert b"in already" in captured.err
    assert not captured.out
    assert content(folder) == after
    assert patch("check", folder) == 0
    assert b"The change is in." in capsysbinary.readouterr().err
    assert patch("diff", folder) == 0
    assert capsysbinary.readouterr().out == printed  # also afterwards, to be sent

    assert patch("reverse", folder) == 0
    assert content(folder) == before
    assert not (folder / "tests").exists()
    assert patch("reverse", folder) == 0
    assert b"nothing to do" in capsysbinary.readouterr().err


@pytest.mark.parametrize(
    "last", ["", "    model_args, data_args, training_args = parser.parse_args_into_dataclasses()"]
)
def test_end_of_file(tmp_path, last: str) -> None:
    """An anchor on the last line, with and without an end of that line."""
    folder = checkout(tmp_path, "llava", last="")
    path = folder / "llava/train/train.py"
    text = path.read_bytes().replace(
        b"    model_args, data_args, training_args = parser.parse_args_into_dataclasses()", b""
    )
    path.write_bytes(text + last.encode() if last else text.rstrip() + b"\n    model_args, data_args, training_args = "
                     b"parser.parse_args_into_dataclasses()\n")  # fmt: skip
    before = content(folder)
    assert patch("apply", folder) == 0
    applied = path.read_text(encoding="utf-8")
    assert applied.rstrip("\n").endswith("install(VistaConfig.from_arguments(training_args))")
    assert applied.endswith("\n") != bool(last)
    assert patch("reverse", folder) == 0
    assert content(folder) == before


def test_parts(tmp_path, capsys) -> None:
    folder = commit(checkout(tmp_path))
    before = content(folder)
    assert patch("apply", folder, "--only", "code") == 0
    changed = {file for file, data in content(folder).items() if data != before.get(file)}
    assert changed == {"llava/train/train.py"}
    assert patch("apply", folder) == 0  # the rest; its own lines do not make the file dirty
    assert (folder / "tests/test_vista.py").exists()
    assert patch("reverse", folder, "--only", "test") == 0
    assert not (folder / "tests").exists()
    assert patch("reverse", folder) == 0
    assert content(folder) == before


def test_dirty_file_is_refused_unless_told(tmp_path, capsys) -> None:
    folder = commit(checkout(tmp_path))
    path = folder / "llava/train/train.py"
    path.write_bytes(path.read_bytes() + b"\nmine = 1\n")
    before = content(folder)
    assert patch("apply", folder) == 2
    assert "llava/train/train.py" in (error := capsys.readouterr().err)
    assert "--allow-dirty" in error
    assert content(folder) == before
    assert patch("apply", folder, "--allow-dirty") == 0
    assert patch("reverse", folder) == 2
    assert patch("reverse", folder, "--allow-dirty") == 0
    assert content(folder) == before


def test_committed_change_and_converted_line_endings_are_not_dirty(tmp_path) -> None:
    folder = commit(checkout(tmp_path))
    for file in content(folder):  # as git itself does it with core.autocrlf
        path = folder / file
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    before = content(folder)
    assert patch("apply", folder) == 0
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "patched")
    assert patch("reverse", folder) == 0
    assert content(folder) == before


def test_nothing_is_half_applied(tmp_path, monkeypatch, capsys) -> None:
    folder = checkout(tmp_path)
    before = content(folder)
    replace, calls = os.replace, []

    def failing(source, target) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(repository.os, "replace", failing)
    assert patch("apply", folder) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert len(calls) > 3  # two files had been written, and were put back
    assert content(folder) == before
    assert not (folder / "tests").exists()


def test_file_that_cannot_be_written(tmp_path, monkeypatch, capsys) -> None:
    folder = checkout(tmp_path)
    before = content(folder)
    monkeypatch.setattr(repository.tempfile, "mkstemp", lambda **_: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert patch("apply", folder) == 2
    assert "Nothing was changed" in capsys.readouterr().err
    assert content(folder) == before


def test_missing_anchor_of_the_code(tmp_path, capsys) -> None:
    folder = checkout(tmp_path)
    path = folder / "llava/train/train.py"
    path.write_bytes(path.read_bytes().replace(b"group_by_modality_length", b"grouped"))
    before = content(folder)
    for action, code in (("check", 1), ("apply", 2), ("diff", 2), ("reverse", 0)):
        assert patch(action, folder) == code, action
        captured = capsys.readouterr()
        assert code == 0 or "no line begins with 'group_by_modality_length: bool" in captured.err
        assert content(folder) == before
        assert not captured.out


def test_anchor_that_stands_there_twice(tmp_path, capsys) -> None:
    folder = checkout(tmp_path)
    path = folder / "llava/train/train.py"
    path.write_bytes(path.read_bytes() * 2)
    assert patch("apply", folder) == 2
    assert "2 lines begin with" in capsys.readouterr().err


def test_fork_with_documentation_of_its_own(tmp_path, capsys) -> None:
    folder = checkout(tmp_path)
    (folder / "README.md").write_text("# our fork\n")
    (folder / "pyproject.toml").unlink()
    (folder / "tests").mkdir()
    (folder / "tests/test_vista.py").write_text("# our own\n")
    assert patch("apply", folder) == 0
    error = capsys.readouterr().err
    assert all(f"{part} is left out" in error for part in ("readme", "extra", "test"))
    assert "install(VistaConfig" in (folder / "llava/train/train.py").read_text(encoding="utf-8")
    assert patch("check", folder) == 0
    assert patch("reverse", folder) == 0
    assert (folder / "tests/test_vista.py").read_text() == "# our own\n"


def test_lines_that_were_changed_afterwards(tmp_path, capsys) -> None:
    folder = checkout(tmp_path)
    assert patch("apply", folder) == 0
    path = folder / "llava/train/train.py"
    path.write_bytes(path.read_bytes().replace(b'default="l2"', b'default="cosine"'))
    before = content(folder)
    for action in ("apply", "reverse"):
        assert patch(action, folder) == 2
        assert "what follows was changed" in capsys.readouterr().err
    assert patch("check", folder) == 1
    assert content(folder) == before


def test_link_out_of_the_checkout(tmp_path, capsys) -> None:
    folder = checkout(tmp_path / "repo")
    outside = tmp_path / "outside.md"
    outside.write_bytes((folder / "README.md").read_bytes())
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(outside)
    before = outside.read_bytes()
    assert patch("apply", folder) == 2
    assert "outside of" in capsys.readouterr().err
    assert outside.read_bytes() == before


def test_link_inside_stays_one(tmp_path) -> None:
    folder = checkout(tmp_path)
    (folder / "README.md").rename(folder / "READ.md")
    (folder / "README.md").symlink_to("READ.md")
    before = content(folder)
    assert patch("apply", folder) == 0
    assert (folder / "README.md").is_symlink()
    assert patch("reverse", folder) == 0
    assert content(folder) == before


def test_unknown_repository(tmp_path, capsys) -> None:
    (tmp_path / "main.py").write_text("print(1)\n")
    assert patch("apply", tmp_path) == 2
    error = capsys.readouterr().err
    assert "tinyllava/train/train.py with 'TrainingRecipeFactory'" in error
    assert "llava/train/train.py without 'mm_tunable_parts'" in error
    assert "llava-vista doctor" in error
    assert patch("apply", tmp_path / "nowhere") == 2
    assert "not a directory" in capsys.readouterr().err


def test_version_and_commit_are_said(tmp_path, capsys) -> None:
    folder = checkout(tmp_path)
    (folder / "pyproject.toml").write_text('[project]\nversion = "9.8"\n[project.optional-dependencies]\n')
    assert patch("check", folder) == 0
    assert "LLaVA-1.5, 9.8, not under git" in capsys.readouterr().err
    commit(folder)
    assert patch("check", folder) == 0
    assert re.search(r"LLaVA-1.5, 9.8 at [0-9a-f]{7,}, \d{4}-\d\d-\d\d", capsys.readouterr().err)


@pytest.mark.parametrize("name", UPSTREAMS)
def test_flags_are_options_with_their_defaults(name: str) -> None:
    """Not every option: llava-vista's start-up hook adds those that the patched parser lacks."""
    blocks = [piece.lines for piece in UPSTREAMS[name].pieces if isinstance(piece, Edit) and piece.part == "code"]
    (fields,) = (block for block in blocks if block[0].startswith("vista: bool"))
    found = [line.partition(":")[0].removeprefix("vista_") for line in fields[1:]]
    assert {"method", "weight", "position_weighting", "text_scope"} <= set(found) <= set(OPTIONS)
    for option, line in zip(found, fields[1:], strict=True):
        default = repr(OPTIONS[option].default).replace("'", '"')
        assert line.startswith(f"vista_{option}: {type(OPTIONS[option].default).__name__} = field(default={default}, ")


def test_config_from_a_hosts_arguments() -> None:
    class Arguments:
        vista_method = "cosine"
        vista_weight = 0.25
        other = 1

    assert VistaConfig.from_arguments(Arguments()) == VistaConfig(method="cosine", weight=0.25)


def _added(diff: str) -> dict[str, list[str]]:
    added: dict[str, list[str]] = {}
    for line in diff.splitlines():
        if line.startswith("+++ b/"):
            added[line.removeprefix("+++ b/")] = current = []
        elif line.startswith("+"):
            current.append(line[1:].strip())
        else:
            assert not line.startswith("-") or line.startswith("--- ")  # nothing of the upstream's is taken away
    return added


def _expected(upstream: Upstream) -> dict[str, list[str]]:
    expected: dict[str, list[str]] = {}
    for piece in upstream.pieces:
        expected.setdefault(piece.file, []).extend(line.strip() for line in piece.lines)
    return expected


@pytest.mark.parametrize("name", UPSTREAMS)
def test_stored_diff_is_what_the_tool_adds(name: str) -> None:
    """patches/NAME.diff, against the data; scripts/check_patches.sh compares it on the upstream itself."""
    stored = (ROOT / "patches" / f"{name}.diff").read_text(encoding="utf-8")
    assert _added(stored) == _expected(UPSTREAMS[name])
    context = sum(line.startswith(" ") for line in stored.splitlines())
    edits = sum(isinstance(piece, Edit) for piece in UPSTREAMS[name].pieces)
    assert context <= 2 * edits
    assert (ROOT / "patches" / f"{name}.md").is_file()


def test_new_files_are_python() -> None:
    for upstream in known():
        for piece in upstream.pieces:
            if isinstance(piece, NewFile):
                compile("\n".join(piece.lines), piece.file, "exec")


def test_lines_keep_lone_carriage_returns() -> None:
    data = b"a\rb\r\nc"
    assert lines.split(data) == [b"a\rb\r\n", b"c"]
    assert b"".join(lines.split(data)) == data
