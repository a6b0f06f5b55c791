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
def test_configuration_file_that_mentions_vista_listens(script: str, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert python(script, "--config", str(tmp_path / name)) == "['llava_vista']"
    assert python(script, f"--config={tmp_path / name}") == "['llava_vista']"


def test_large_file_is_not_read(script: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('["vista"]' + " " * 70_000)
    assert python(script, "--data_path", str(tmp_path / "data.json")) == "[]"
