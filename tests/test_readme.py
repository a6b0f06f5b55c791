"""The README's example of an adapter is run as it stands, on a model made to fit it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from merging_host import Merging, batch_for, config
from torch import nn

from llava_vista.adapters import ADAPTERS, find_adapter

README = Path(__file__).parents[1] / "README.md"


def blocks(word: str) -> list[str]:
    """The README's Python examples that contain ``word``."""
    parts = README.read_text().split("```python\n")[1:]
    return [block for block in (part.split("```")[0] for part in parts) if word in block]


class MyLlava(Merging):
    """As the example says: another name for the merge method, three values, the stack one level down."""

    @property
    def language_model(self) -> nn.Module:
        return self.model

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
    (example,) = blocks("register_adapter(")
    assert len(example.splitlines()) < 40
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
