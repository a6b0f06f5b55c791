"""Fixtures for tests on the real LLaVA-1.5."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from probe_site import Site
from tiny_llava import build
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel


@pytest.fixture(scope="session")
def tower_path(tmp_path_factory: pytest.TempPathFactory) -> str:
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
    return lambda kind="llama", **options: build(kind, tower_path, **options)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))
