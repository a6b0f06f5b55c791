"""Which host loads a checkpoint: by its config.json, and by the code that is here. No host is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_vista.errors import ProbeError, UnsupportedModelError
from llava_vista.tools.probe.conversation_samples import without_end
from llava_vista.tools.probe.hosts import LoadOptions, choose_host, load_checkpoint

pytestmark = pytest.mark.environments("latest")

OPTIONS = LoadOptions(None, None, torch.device("cpu"), torch.float32)
MODELS = "model/language_model"
#: Packages by the files that distinguish them.
LLAVA = {"llava": [f"{MODELS}/llava_llama.py", f"{MODELS}/llava_mistral.py"]}
NEXT = {"llava": [*LLAVA["llava"], f"{MODELS}/llava_qwen.py"]}
VILA = {"llava": [f"{MODELS}/llava_llama.py", f"{MODELS}/llava_topdown_llama.py"]}
TOWER, IMAGE_TOWER = {"mm_vision_tower": "clip"}, {"mm_image_tower": "clip"}


def config(architecture: str | None, model_type: str, **more: Any) -> dict[str, Any]:
    named = {} if architecture is None else {"architectures": [architecture]}
    return {**named, "model_type": model_type, **more}


LLAMA = config("LlavaLlamaForCausalLM", "llava_llama", **TOWER)


@pytest.fixture
def checkouts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts packages of empty files on the path, in the place of any that is installed."""

    def put(packages: dict[str, list[str]]) -> None:
        for package, files in packages.items():
            for name in ("__init__.py", *files):
                path = tmp_path / package / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        for name in [name for name in sys.modules if name.partition(".")[0] == "llava"]:
            monkeypatch.delitem(sys.modules, name)
        if "llava" not in packages:
            monkeypatch.setitem(sys.modules, "llava", None)  # not importable
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


@pytest.mark.parametrize(
    ("packages", "found", "host"),
    [
        (LLAVA, LLAMA, "llava"),
        (LLAVA, config("LlavaLlamaForCausalLM", "llava", **TOWER), "llava"),  # before v1.2
        (LLAVA, config("LlamaForCausalLM", "llava_llama", **TOWER), "llava"),  # a stage-1 folder
        (LLAVA, {**LLAMA, "image_aspect_ratio": "anyres"}, "llava"),
        (LLAVA, config("LlavaMistralForCausalLM", "llava_mistral", **TOWER), "llava"),
        ({}, config("LlavaForConditionalGeneration", "llava"), "transformers"),
    ],
)
def test_choose_host_takes_the_one_whose_code_is_importable(checkouts, packages, found, host) -> None:
    checkouts(packages)
    assert choose_host(Path("checkpoint"), found).name == host


@pytest.mark.parametrize(
    ("packages", "found", "words"),
    [
        ({}, LLAMA, ["`llava` of haotian-liu/LLaVA", "not importable", "PYTHONPATH", "own training script"]),
        (VILA, LLAMA, ["has model/language_model/llava_topdown_llama.py", "not that of haotian-liu/LLaVA"]),
        (NEXT, LLAMA, ["has model/language_model/llava_qwen.py", "not that of haotian-liu/LLaVA"]),
        (LLAVA, {**LLAMA, "image_aspect_ratio": "anyres_max_9"}, ["'anyres_max_9', which haotian-liu/LLaVA"]),
        ({"llava": [f"{MODELS}/llava_mistral.py"]}, LLAMA, ["no model/language_model/llava_llama.py"]),
    ],
)
def test_choose_host_names_what_to_put_on_the_path(checkouts, packages, found, words) -> None:
    checkouts(packages)
    with pytest.raises(ProbeError) as caught:
        choose_host(Path("checkpoint"), found)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    "found",
    [
        config("LlavaMptForCausalLM", "llava_mpt", **TOWER),  # its forward is broken upstream
        config("LlavaQwenForCausalLM", "qwen2", **TOWER),  # LLaVA-NeXT
        config("BunnyPhiForCausalLM", "bunny-phi", **TOWER),
        config("LlavaLlamaForCausalLM", "llava", **IMAGE_TOWER),  # Video-LLaVA
        config("LlavaLlamaModel", "vila", llm_cfg={}),
        config("LlavaLlamaForCausalLM", "llava_llama"),  # no tower is named
        config("LlamaForCausalLM", "llama"),
    ],
)
def test_choose_host_refuses_what_no_host_loads(checkouts, found) -> None:
    checkouts(LLAVA)
    with pytest.raises(
        UnsupportedModelError, match=f"does not load {found['architectures'][0]}.*llava-vista probe -- COMMAND"
    ):
        choose_host(Path("checkpoint"), found)


def test_loading_names_code_for_another_environment(checkouts, tmp_path) -> None:
    """As where LLaVA is imported with another transformers than its own."""
    checkouts({"llava": ["conversation.py", f"{MODELS}/llava_llama.py", "model/__init__.py", f"{MODELS}/__init__.py"]})
    (tmp_path / "llava" / "conversation.py").write_text("from transformers import NothingOfThatName\n")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(ProbeError, match=r"llava.conversation of haotian-liu/LLaVA cannot be imported here .*Nothing"):
        load_checkpoint(folder, OPTIONS)


def test_code_is_recognised_without_an_import(checkouts, tmp_path) -> None:
    checkouts(LLAVA)
    (tmp_path / "llava" / "__init__.py").write_text("raise RuntimeError('imported')")
    assert choose_host(Path("checkpoint"), LLAMA).name == "llava"


# --- an answer that was cut off ---

WORDS = ["<end>", "\n", "<start>", "user", "assistant", "what", "a", "red", "cube", "green"]


def decode(ids: list[int]) -> str:
    """Special tokens are left out."""
    return " ".join(WORDS[token] for token in ids if not WORDS[token].startswith("<"))


def test_the_end_of_a_cut_answer_is_not_scored() -> None:
    labels = torch.tensor([-100, -100, 6, 7, 8, 0, 1])
    assert without_end(labels, decode).tolist() == [-100, -100, 6, 7, 8, -100, -100]
    assert without_end(torch.tensor([-100, 6, 7, 8]), decode).tolist() == [-100, 6, 7, -100]
    assert without_end(torch.tensor([-100, 6]), decode).tolist() == [-100, -100]
    assert without_end(torch.tensor([-100]), decode).tolist() == [-100]
