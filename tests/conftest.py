"""What every test shares: the process is left as it was found."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No request from outside, no hooks left behind, warnings said once per test, the environment put back.

    TrainingArguments(bf16=True) sets ACCELERATE_MIXED_PRECISION for good, and so for later runs and child processes.
    """
    from llava_vista import log, uninstall

    before = dict(os.environ)
    monkeypatch.delenv("LLAVA_VISTA", raising=False)
    log._said.clear()
    yield
    uninstall()
    os.environ.clear()
    os.environ.update(before)
