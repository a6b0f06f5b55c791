"""The data sheets of the shipped families: which classes they claim, by the whole qualified name alone."""

from __future__ import annotations

import pytest
from torch import nn

from llava_vista.adapters import all_adapters

FAMILIES = {
    "llava": ["LlavaLlamaForCausalLM", "LlavaQwenForCausalLM", "LlavaQwen2ForCausalLM"],
    "tinyllava": ["TinyLlavaForConditionalGeneration"],
    "bunny": ["BunnyPhiForCausalLM", "BunnyLlamaForCausalLM"],
    "moellava": ["MoELLaVAPhiForCausalLM", "LlavaPhiForCausalLM"],
    "videollava": ["LlavaLlamaForCausalLM"],
    "sharegpt4v": ["Share4VLlamaForCausalLM"],
    "vila": ["LlavaLlamaModel", "LlavaTopDownLlamaModel"],
}


def shipped() -> list[tuple[str, str]]:
    return [(adapter.name, name) for adapter in all_adapters() if adapter.name in FAMILIES for name in adapter.classes]


def look_alike(qualified: str, *bases: type) -> nn.Module:
    """An empty module of a class of that name, with every family's merge method."""
    module, _, name = qualified.rpartition(".")
    methods = {adapter.merge_method: lambda self: None for adapter in all_adapters() if adapter.name in FAMILIES}
    cls = type(name, bases or (nn.Module,), {"__module__": module, **methods})
    return cls()


def claims(module: nn.Module) -> list[str]:
    return [adapter.name for adapter in all_adapters() if adapter.matches(module)]


def test_every_class_has_one_adapter() -> None:
    sheets = shipped()
    assert len({name for _, name in sheets}) == len(sheets)
    for adapter, names in FAMILIES.items():
        known = {name.rpartition(".")[2] for owner, name in sheets if owner == adapter}
        assert set(names) <= known


@pytest.mark.parametrize(("adapter", "qualified"), shipped())
def test_only_the_whole_name_counts(adapter: str, qualified: str) -> None:
    package, _, rest = qualified.partition(".")
    name = qualified.rpartition(".")[2]
    assert claims(look_alike(qualified)) == [adapter]
    assert claims(look_alike("elsewhere.Finer", type(look_alike(qualified)))) == [adapter]
    for other in (
        f"dol{package}n.{rest}",  # the name within another
        f"{package}2.{rest}",
        f"vendored.{qualified}",
        f"{qualified}Extended",
        qualified.replace(name, f"X{name}"),
        f"{package}.{name}",
    ):
        assert claims(look_alike(other)) == []


def test_a_class_of_two_hosts() -> None:
    """VILA's model goes by the same whole name as the decoder of LLaVA, which merges nothing."""
    decoder = type("LlavaLlamaModel", (nn.Module,), {"__module__": "llava.model.language_model.llava_llama"})()
    assert claims(decoder) == []
