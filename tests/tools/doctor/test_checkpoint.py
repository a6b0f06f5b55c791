"""The doctor on checkpoints, with and without the source of their model's class."""

from __future__ import annotations

import json

import pytest
from host_trees import HOSTS, files_of, write

from llava_vista import cli
from llava_vista.tools.doctor import targets
from llava_vista.tools.doctor.examination import TargetError, examine

pytestmark = pytest.mark.environments("latest")

LLAVA_CONFIG = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
}
#: as LLaVA saves it after stage 1, whose checkpoint is the projector alone
STAGE_1 = {**LLAVA_CONFIG, "architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    ("config", "code", "expected"),
    [
        (LLAVA_CONFIG, 0, "llava, if the class is llava.model.language_model.llava_llama.LlavaLlamaForCausalLM"),
        (STAGE_1, 0, "llava, if the class is llava.model.language_model.llava_llama.LlavaLlamaForCausalLM"),
        ({"model_type": "llava_llama", "mm_hidden_size": 1024}, 0, "for llava_llama."),
        (
            {"architectures": None, "model_type": "tinyllava", "vision_config": {}},
            0,
            "adapter tinyllava for tinyllava.",
        ),
        (
            {"architectures": ["ShinyForCausalLM"], "model_type": "shiny", "mm_hidden_size": 8},
            0,
            "generic for ShinyForCausalLM, if its code has LLaVA's merge method",
        ),
        (
            {"architectures": ["NewForConditionalGeneration"], "vision_config": {}, "image_token_id": 7},
            0,
            "generic for NewForConditionalGeneration, by its image token ids (7,)",
        ),
        ({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}, 0, "adapter transformers-llava"),
        ({"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"}, 1, "broken upstream"),
        ({"architectures": ["NovelVisionModel"], "model_type": "novel", "vision_config": {}}, 1, "none knows NovelVis"),
        (
            {"architectures": ["Florence"], "vision_config": {}, "image_token_id": 7, "is_encoder_decoder": True},
            1,
            "an encoder-decoder",
        ),
        (
            {
                "architectures": ["MllamaForConditionalGeneration"], "vision_config": {}, "image_token_index": 7,
                "text_config": {"cross_attention_layers": [3]},
            },
            1,
            "attends to images by cross attention",
        ),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, 0, "a text-only language model"),
    ],
)  # fmt: skip
def test_without_source(tmp_path, doctor, config, code, expected):
    write(tmp_path, {"config.json": json.dumps(config)})
    found, out = doctor(tmp_path)
    assert found == code and expected in out, out
    assert f"model_type {config.get('model_type', 'none named')}" in out
    assert f"vision tower {config.get('mm_vision_tower', 'none named')}" in out
    assert doctor(tmp_path / "config.json")[0] == code


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("name", HOSTS)
def test_with_source(tmp_path, doctor, monkeypatch, name, installed):
    """The class is found by its name, and after stage 1 by the model type, in a checkout or an installed host."""
    adapter, model_file, model, _ = HOSTS[name]
    configured = files_of(name)[model_file].replace(
        f"class {model}", f"class C:\n    model_type = 'kind'\nclass {model}"
    )
    root = write(tmp_path / "root", files_of(name, **{model_file: configured}))
    if installed:
        package = model_file.partition("/")[0]
        monkeypatch.setattr(targets, "package_folders", lambda wanted: [root / wanted] * (wanted == package))
    for classes in ([model], ["LlamaForCausalLM"]):
        config = {"architectures": classes, "model_type": "kind", "mm_hidden_size": 8}
        write(tmp_path / "checkpoint", {"config.json": json.dumps(config)})
        code, out = doctor(tmp_path / "checkpoint", *([] if installed else [root]))
        assert code == 0 and f"adapter {adapter} for {model}" in out and "if the class is" not in out


def test_code_that_comes_with_a_checkpoint(tmp_path, doctor):
    source = "class Chat(PreTrainedModel):\n    def forward(self, pixel_values, input_ids, labels): ...\n"
    config = {"architectures": ["Chat"], "model_type": "chat", "vision_config": {}}
    write(tmp_path, {"config.json": json.dumps(config), "modeling_chat.py": source})
    code, out = doctor(tmp_path)
    assert code == 1 and "none for Chat (modeling_chat.py): it has no known class" in out
    config["image_token_id"] = 5
    write(
        tmp_path,
        {"config.json": json.dumps(config), "modeling_chat.py": f"{source}        self.config.image_token_id\n"},
    )
    code, out = doctor(tmp_path)
    assert code == 0 and "Nothing is wrong: adapter generic for Chat." in out


@pytest.mark.parametrize("content", ["{not json", "[1]", "", "[" * 100_000])
def test_broken_config(tmp_path, doctor, content):
    code, out = doctor(write(tmp_path, {"config.json": content}))
    assert code == 1 and "config.json cannot be read" in out


def test_vista_json_is_mentioned(tmp_path, doctor):
    write(tmp_path, {"config.json": json.dumps(LLAVA_CONFIG), "vista.json": "{}"})
    assert "trained with VISTA" in doctor(tmp_path)[1]


@pytest.mark.parametrize("name", ["nothing-here", "some-org/some-model"])
def test_no_such_target(capsys, name):
    assert cli.main(["doctor", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{name} does not exist" in error


def test_target_is_a_file(tmp_path):
    write(tmp_path, {"train.py": ""})
    with pytest.raises(TargetError, match=r"is a file; a directory was expected"):
        examine([str(tmp_path / "train.py")])
