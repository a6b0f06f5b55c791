"""An environment in which nothing is wrong, whatever this one is like."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llava_vista import cli
from llava_vista.tools.doctor import checkout, environment, targets


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Good versions, a live hook, no host installed; no interpreters are started."""
    monkeypatch.setattr(environment, "found_versions", lambda: {"python": "3.10.4", "torch": "2.1.2"})
    monkeypatch.setattr(
        environment, "imported_at_start", lambda value, *words: (["llava_vista.hooks"] if value or words else [], "")
    )
    monkeypatch.setattr(targets, "package_folders", lambda name: [])
    monkeypatch.setattr(checkout, "package_folders", lambda name: [])


@pytest.fixture
def doctor(calm: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command on such an environment; gives the exit code and the long form in one line."""

    def run(*arguments: object) -> tuple[int, str]:
        code = cli.main(["doctor", "--verbose", *map(str, arguments)])
        return code, " ".join(capsys.readouterr().out.split())

    return run
