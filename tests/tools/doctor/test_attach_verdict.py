"""The doctor's verdict from source and config.json, held against what attach() does with the live model."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
from host_trees import write
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from llava_vista import UnsupportedModelError, attach

pytestmark = pytest.mark.environments("latest")

HEAD = """import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration
class ShinyConfig(LlamaConfig):
    model_type = "shiny_llama"
"""
MERGE = "    def prepare_inputs_labels_for_multimodal(self, input_ids, {arguments}, images):\n        return {values}\n"
FORWARD = "    def forward(self, input_ids, labels=None, images=None): ...\n"
MODEL = "class ShinyForCausalLM({bases}):\n    config_class = ShinyConfig\n" + FORWARD
GOOD = MERGE.format(arguments="attention_mask, labels", values="1, 2, 3, 4, 5")
#: what it is -> arch.py, model.py, keys of the configuration
FORKS = {
    "merge method in a mixin": (f"class Meta:\n{GOOD}", MODEL.format(bases="LlamaForCausalLM, Meta"), {}),
    "merge method of its own": ("class Meta: ...\n", MODEL.format(bases="LlamaForCausalLM") + GOOD, {}),
    "merge method that lacks an argument": (
        f"class Meta:\n{MERGE.format(arguments='labels', values='1, 2, 3, 4, 5')}",
        MODEL.format(bases="LlamaForCausalLM, Meta"),
        {},
    ),
    "nothing": ("class Meta: ...\n", MODEL.format(bases="LlamaForCausalLM, Meta"), {}),
    "image token id": (
        "class Meta:\n    def images(self):\n        return self.config.image_token_id\n",
        MODEL.format(bases="LlamaForCausalLM, Meta"),
        {"image_token_id": 5},
    ),
    "merge method, no embedding": (f"class Meta:\n{GOOD}", MODEL.format(bases="nn.Module, Meta"), {}),
    "encoder-decoder": (
        f"class Meta:\n{GOOD}",
        MODEL.format(bases="LlamaForCausalLM, Meta"),
        {"is_encoder_decoder": True},
    ),
    "transformers' class": (
        "class Meta: ...\n",
        MODEL.format(bases="LlavaForConditionalGeneration, Meta").replace("    config_class = ShinyConfig\n", ""),
        None,
    ),
}


def llama(**keys: object) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, **keys
    )


@pytest.mark.parametrize("name", FORKS)
def test_verdict_is_that_of_attach(tmp_path, monkeypatch, doctor, name):
    arch, model, keys = FORKS[name]
    package = f"shiny_{sorted(FORKS).index(name)}"
    root = write(
        tmp_path / "repo",
        {
            f"{package}/__init__.py": "",
            f"{package}/arch.py": HEAD + arch,
            f"{package}/model.py": f"{HEAD}from .arch import Meta\n{model}",
            f"{package}/train.py": f"from {package}.model import ShinyForCausalLM\nparser = HfArgumentParser(())\n",
        },
    )
    monkeypatch.syspath_prepend(str(root))
    module = importlib.import_module(f"{package}.model")
    if keys is None:
        vision = CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
        )
        live = module.ShinyForCausalLM(LlavaConfig(vision_config=vision, text_config=llama(), image_token_id=5))
    elif "nn.Module" in model:
        live = module.ShinyForCausalLM()
    else:
        live = module.ShinyForCausalLM(module.ShinyConfig(**llama(**keys).to_dict()))
    try:
        handle = attach(live)
        expected = handle.adapter.name
        handle.detach()
    except UnsupportedModelError:
        expected = None

    code, out = doctor(root)
    if name != "encoder-decoder":  # only the configuration says so
        assert (code == 0) == (expected is not None), out
        assert f"adapter {expected or 'none'} for ShinyForCausalLM" in out
    if keys is None or "nn.Module" in model:
        return
    for classes in (["ShinyForCausalLM"], ["LlamaForCausalLM"]):  # a whole checkpoint, and stage 1's
        config = {**live.config.to_dict(), "architectures": classes, "mm_vision_tower": "clip"}
        write(tmp_path / "checkpoint", {"config.json": json.dumps(config, default=str)})
        monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(root)])
        code, out = doctor(tmp_path / "checkpoint", root)
        section = out[out.index("Checkpoint:") : out.index("Patched")]
        assert ("!! adapter" in section) == (expected is None), section
        assert f"adapter {expected or 'none'} for " in section
