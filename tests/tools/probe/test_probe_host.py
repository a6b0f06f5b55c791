"""Which host loads a checkpoint: by its config.json, and by the code that is here. No host is imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_vista.errors import ProbeError, UnsupportedModelError
from llava_vista.tools.probe.conversation_samples import Turn
from llava_vista.tools.probe.hosts import HOSTS, LoadOptions, load_checkpoint
from llava_vista.tools.probe.hosts.probe_host import choose_host
from llava_vista.tools.probe.hosts.repository_host import RepositoryHost
from llava_vista.tools.probe.measures.visual_information import turns_of_runs
from llava_vista.tools.probe.probed_batch import without_end

pytestmark = pytest.mark.environments("latest")

OPTIONS = LoadOptions(None, None, torch.device("cpu"), torch.float32)
MODELS = "model/language_model"
#: Packages by the files that distinguish them.
LLAVA = {"llava": [f"{MODELS}/llava_llama.py", f"{MODELS}/llava_mistral.py"]}
VIRAL = {"llava": [*LLAVA["llava"], f"{MODELS}/llava_qwen2.py"]}
NEXT = {"llava": [*LLAVA["llava"], f"{MODELS}/llava_qwen.py"]}
VILA = {"llava": [f"{MODELS}/llava_llama.py", f"{MODELS}/llava_topdown_llama.py"]}
MOE = {"moellava": [f"{MODELS}/llava_{name}.py" for name in ("llama", "phi", "phi_moe")]}
VIDEO = {"videollava": [f"{MODELS}/llava_llama.py"]}
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
        for package in ("llava", "moellava", "videollava", "bunny", "share4v", "tinyllava"):
            for name in [name for name in sys.modules if name.partition(".")[0] == package]:
                monkeypatch.delitem(sys.modules, name)
            if package not in packages:
                monkeypatch.setitem(sys.modules, package, None)  # not importable
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


@pytest.mark.parametrize(
    ("packages", "found", "host"),
    [
        (LLAVA, LLAMA, "llava"),
        (LLAVA, config("LlavaLlamaForCausalLM", "llava", **TOWER), "llava"),  # before v1.2
        (LLAVA, config("LlamaForCausalLM", "llava_llama", **TOWER), "llava"),  # a stage-1 folder
        (VIRAL, config("LlavaQwen2ForCausalLM", "llava_qwen2", **TOWER), "llava"),
        (NEXT, LLAMA, "llava-next"),
        (NEXT, {**LLAMA, "image_aspect_ratio": "anyres_max_9"}, "llava-next"),
        (NEXT, config("LlavaQwenForCausalLM", "qwen2", **TOWER), "llava-next"),  # what its training writes
        (VILA, config("LlavaLlamaModel", "llava_llama", llm_cfg={}), "vila"),
        (MOE, config("LlavaPhiForCausalLM", "llava_phi", **IMAGE_TOWER), "moellava"),
        (MOE, config("MoELLaVAPhiForCausalLM", "moe_llava_phi", **IMAGE_TOWER), "moellava"),
        (VIDEO, config("LlavaLlamaForCausalLM", "llava", **IMAGE_TOWER), "videollava"),
        (
            {"share4v": [f"{MODELS}/share4v_llama.py"]},
            config("Share4VLlamaForCausalLM", "share4v", **TOWER),
            "sharegpt4v",
        ),
        ({"bunny": [f"{MODELS}/bunny_phi.py"]}, config("BunnyPhiForCausalLM", "bunny-phi", **TOWER), "bunny"),
        ({"tinyllava": ["model/modeling_tinyllava.py"]}, config(None, "tinyllava"), "tinyllava"),
        ({}, config("LlavaForConditionalGeneration", "llava"), "transformers"),
    ],
)
def test_choose_host_takes_the_one_whose_code_is_importable(checkouts, packages, found, host) -> None:
    checkouts(packages)
    assert choose_host(Path("checkpoint"), found).name == host


@pytest.mark.parametrize(
    ("packages", "found", "words"),
    [
        ({}, LLAMA, ["`llava` of haotian-liu/LLaVA", "not importable", "LLaVA-VL/LLaVA-NeXT", "PYTHONPATH"]),
        (VILA, LLAMA, ["has model/language_model/llava_topdown_llama.py", "not that of haotian-liu/LLaVA"]),
        (LLAVA, config("LlavaQwenForCausalLM", "qwen2", **TOWER), ["no model/language_model/llava_qwen.py", "NeXT"]),
        (LLAVA, config("LlavaLlamaModel", "llava_llama"), ["not that of NVlabs/VILA"]),
        (LLAVA, {**LLAMA, "image_aspect_ratio": "anyres_max_9"}, ["'anyres_max_9', which haotian-liu/LLaVA", "NeXT"]),
        ({}, config("BunnyPhiForCausalLM", "bunny-phi", **TOWER), ["`bunny` of BAAI-DCAI/Bunny is not importable"]),
        (
            {"bunny": [f"{MODELS}/bunny_phi.py"]},
            config("BunnyQwen2ForCausalLM", "bunny-qwen2", **TOWER),
            ["no model/language_model/bunny_qwen.py"],
        ),
        (
            {**MOE, **VIDEO},
            config("LlavaLlamaForCausalLM", "llava", **IMAGE_TOWER),
            ["moellava or videollava", "Leave only the one that trained it"],
        ),
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
        config("LlavaTopDownLlamaModel", "llava_topdown_llama"),
        config("LlavaLlamaForCausalLM", "llava_llama"),  # no tower is named
        config("LlamaForCausalLM", "llama"),
    ],
)
def test_choose_host_refuses_what_no_host_loads(checkouts, found) -> None:
    checkouts(LLAVA)
    with pytest.raises(UnsupportedModelError, match=f"does not know how to load {found['architectures'][0]}"):
        choose_host(Path("checkpoint"), found)


def test_loading_names_code_for_another_environment(checkouts, tmp_path) -> None:
    """As where a host is imported with another transformers than its own."""
    checkouts({"bunny": ["conversation.py", f"{MODELS}/bunny_phi.py", "model/__init__.py", f"{MODELS}/__init__.py"]})
    (tmp_path / "bunny" / "conversation.py").write_text("from transformers import NothingOfThatName\n")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config("BunnyPhiForCausalLM", "bunny-phi", **TOWER)))
    with pytest.raises(ProbeError, match=r"bunny.conversation of BAAI-DCAI/Bunny cannot be imported here .*Nothing"):
        load_checkpoint(folder, OPTIONS)


def test_a_package_is_recognised_without_an_import(checkouts, tmp_path) -> None:
    checkouts({"bunny": ["one.py"]})
    (tmp_path / "bunny" / "__init__.py").write_text("raise RuntimeError('imported')")

    def missing(package: str, **files: tuple[str, ...]) -> str | None:
        attributes = {"repository": "Bunny", "package": package, **files}
        return type("Repository", (RepositoryHost,), attributes).missing({})

    assert "not importable" in str(missing("nobody_has_this"))
    assert missing("bunny", holds=("one.py",)) is None
    assert "has no two.py" in str(missing("bunny", holds=("two.py",)))
    assert "has one.py" in str(missing("bunny", lacks=("one.py",)))


def test_every_adapter_of_a_repository_has_a_host() -> None:
    """A class that VISTA trains can be probed, but for those named here, each for a reason that its host states."""
    from llava_vista.adapters import all_adapters

    without = {
        "LlavaMptForCausalLM", "LlavaMPTForCausalLM", "LlavaGemmaForCausalLM", "LlavaTopDownLlamaModel",
        "LlavaStablelmForCausalLM", "LlavaMiniCPMForCausalLM", "LlavaQWenForCausalLM", "MoELLaVAStablelmForCausalLM",
        "MoELLaVAMiniCPMForCausalLM", "MoELLaVAQWenForCausalLM", "MoELLaVALlamaForCausalLM",
        "MoELLaVAMistralForCausalLM",
    }  # fmt: skip
    known = {name.removeprefix("Eval") for host in HOSTS for name in host.known()}
    trained = {
        name.rpartition(".")[2]
        for adapter in all_adapters()
        for name in adapter.classes
        if not name.startswith("transformers")
    }
    assert trained - known == without


# --- chat formats that supervise more than answers ---

WORDS = ["<end>", "\n", "<start>", "user", "assistant", "what", "a", "red", "cube", "green"]


def decode(ids: list[int]) -> str:
    """Special tokens are left out."""
    return " ".join(WORDS[token] for token in ids if not WORDS[token].startswith("<"))


def test_runs_find_their_turns_by_words() -> None:
    turns = [Turn("what", "a red cube"), Turn("what", "green")]
    runs = [[2], [1], [0, 1, 2, 4, 1, 6, 7, 8, 0, 1, 2], [1], [0, 1, 2, 4, 1, 9, 0, 1]]
    assert turns_of_runs(runs, turns, decode) == [None, None, turns[0], None, turns[1]]
    assert turns_of_runs(runs[2:3], turns, decode) == turns[:1]  # truncated
    assert turns_of_runs([[6, 7], [9]], turns, decode) == turns


def test_the_end_of_a_cut_answer_is_not_scored() -> None:
    labels = torch.tensor([-100, -100, 6, 7, 8, 0, 1])
    assert without_end(labels, decode).tolist() == [-100, -100, 6, 7, 8, -100, -100]
    assert without_end(torch.tensor([-100, 6, 7, 8]), decode).tolist() == [-100, 6, 7, -100]
    assert without_end(torch.tensor([-100, 6]), decode).tolist() == [-100, -100]
    assert without_end(torch.tensor([-100]), decode).tolist() == [-100]
