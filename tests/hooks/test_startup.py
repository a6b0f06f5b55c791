"""The start-up hook: nothing without the flag, listening with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = "import sys; print([name for name in ('llava_vista', 'torch', 'transformers') if name in sys.modules])"


def python(*arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "LLAVA_VISTA"}
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**clean, **(environment or {})},
        cwd=cwd,
    )
    assert not result.stderr
    return result.stdout.strip()


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "script.py"
    path.write_text(SHOW)
    return str(path)


def test_hook_is_installed_with_the_package() -> None:
    """A wheel, and an editable install too, must carry the .pth file."""
    assert python("-c", SHOW, environment={"LLAVA_VISTA": "1"}) == "['llava_vista']"


def test_no_flag_imports_nothing(script: str, tmp_path: Path) -> None:
    (tmp_path / "zero2.json").write_text('{"zero_optimization": {"stage": 2}}')
    assert python("-c", SHOW) == "[]"
    assert python(script, "--output_dir", "vista", "--deepspeed", str(tmp_path / "zero2.json")) == "[]"
    assert python(script, environment={"LLAVA_VISTA": ""}) == "[]"


@pytest.mark.parametrize(
    "words", [["--vista"], ["--vista", "True"], ["--a", "b", "--vista_method=cosine"], ["train", "vista=true"]]
)
def test_flag_listens_without_importing_the_host(script: str, words: list[str]) -> None:
    assert python(script, *words) == "['llava_vista']"


def test_module_run_listens(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SHOW)
    assert python("-m", "shown", "--vista", cwd=tmp_path) == "['llava_vista']"


@pytest.mark.parametrize(("name", "text"), [("c.yaml", "vista: true\n"), ("c.json", '{"vista": true}')])
def test_configuration_files_are_for_known_trainers_and_never_opened(
    script: str, tmp_path: Path, name: str, text: str
) -> None:
    config = tmp_path / name
    config.write_text(text)
    assert python(script, "--config", str(config)) == "[]"
    config.write_bytes(b"\xff\xfe")  # not even text
    for place in ("trl", "trl/scripts/sft.py", "llamafactory/launcher.py", "swift/cli/sft.py"):
        program = tmp_path / "programs" / place
        program.parent.mkdir(parents=True, exist_ok=True)
        if program.is_dir():
            continue
        program.write_text(SHOW)
        assert python(str(program), "--config", str(config)) == "['llava_vista']", place
        if place == "trl":
            program.unlink()


def test_unreadable_file_among_the_arguments_prints_nothing(script: str, tmp_path: Path) -> None:
    """The fault was a traceback of the start-up line in a program that never asked."""
    unreadable = tmp_path / "data.json"
    unreadable.symlink_to(unreadable)  # a loop: opening it raises, also for root
    assert python("-W", "error", script, str(unreadable)) == "[]"
