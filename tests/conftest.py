"""Fixtures shared by all tests, and the choice of tests by environment.

A test file names the environments of scripts/make_env.sh that it needs: ``pytestmark =
pytest.mark.environments("llava")``. Without the mark it runs in "latest" and in "llava". "llava-ranks" is the llava
environment again, for tests whose two ranks need both cores. ``pytest --environment NAME`` collects only the files of
that environment; the others are not imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch
    from probe_site import Site

DEFAULT_ENVIRONMENTS = ("latest", "llava")
_MARK = re.compile(r"^pytestmark = pytest\.mark\.environments\(([^)]*)\)", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--environment", help="collect only the tests of this environment of scripts/make_env.sh")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the test files of other environments: what they import is not installed here."""
    environment = config.getoption("--environment")
    if environment is None or collection_path.suffix != ".py":
        return None
    mark = _MARK.search(collection_path.read_text(encoding="utf-8"))
    named = DEFAULT_ENVIRONMENTS if mark is None else tuple(re.findall(r'"([^"]+)"', mark[1]))
    return None if environment in named else True


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no request, hook or environment variable behind, and let each test see its warnings.

    TrainingArguments(bf16=True) sets ACCELERATE_MIXED_PRECISION for good, and so for later runs and child processes.
    """
    from llava_vista import logging, uninstall

    before = dict(os.environ)
    monkeypatch.delenv("LLAVA_VISTA", raising=False)
    logging._said.clear()
    yield
    uninstall()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tower_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny CLIP vision tower on disk."""
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    path = str(tmp_path_factory.mktemp("clip"))
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
    )
    CLIPVisionModel(config).save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(path)
    return path


@pytest.fixture
def make_model(tower_path: str) -> Callable[..., torch.nn.Module]:
    """Build a tiny model of the real LLaVA-1.5 (environment llava)."""
    from tiny_llava import build

    def make(kind: str = "llama", **options: Any) -> torch.nn.Module:
        return build(kind, tower_path, **options)

    return make


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Tiny LLaVA checkpoints and data to probe (environment llava)."""
    from probe_site import Site

    return Site(tmp_path_factory.mktemp("site"))
