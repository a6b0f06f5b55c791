"""Which models attach refuses, and in which words, on the real LLaVA-1.5 classes."""

from __future__ import annotations

import pytest
import torch
from tiny_llava import make_batch

from llava_vista import Adapter, AttachError, LayoutError, UnsupportedModelError, attach, register_adapter
from llava_vista.adapters import ADAPTERS

pytestmark = pytest.mark.environments("llava")


def test_attaching_twice_is_an_error(make_model) -> None:
    model = make_model()
    handle = attach(model)
    with pytest.raises(AttachError, match=r"already attached .* call detach\(\)"):
        attach(model)
    handle.detach()
    attach(model).detach()


def test_unknown_model_lists_what_is_known(make_model) -> None:
    with pytest.raises(UnsupportedModelError, match=r"no adapter recognises .*Linear.*Known adapters: .*llava,"):
        attach(torch.nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match="no adapter recognises"):
        attach(make_model().get_vision_tower())


def test_two_adapters_claiming_one_model(make_model) -> None:
    model = make_model()

    @register_adapter("rival")
    class Rival(Adapter):
        classes = ("llava.model.language_model.llava_llama.LlavaLlamaForCausalLM",)

    try:
        with pytest.raises(UnsupportedModelError, match=r"claimed by several adapters: llava .*rival"):
            attach(model)
    finally:
        ADAPTERS.remove("rival")
    attach(model).detach()


def test_a_class_of_the_same_name_elsewhere_is_not_taken() -> None:
    class LlavaLlamaForCausalLM(torch.nn.Module):
        def prepare_inputs_labels_for_multimodal(self):
            raise AssertionError

    with pytest.raises(UnsupportedModelError):
        attach(LlavaLlamaForCausalLM())


def test_no_loss_in_the_output_stops(make_model) -> None:
    model, batch = make_model(), make_batch()
    handle = attach(model)
    del batch["labels"]
    with pytest.raises(LayoutError, match="no layout is known"):
        model(**batch)
    handle.detach()
