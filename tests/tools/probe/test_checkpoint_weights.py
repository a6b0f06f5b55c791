"""What training leaves behind, as the probe loads it: projectors, LoRA weights, trained towers; and what is neither."""

from __future__ import annotations

import shutil

import pytest
import torch
from probe_site import OPTIONS, run

from llava_vista.cli import main
from llava_vista.tools.probe.hosts import LoadOptions, load_checkpoint

pytestmark = pytest.mark.environments("llava")


def test_a_stage_one_projector_needs_its_base(site, tmp_path, capsys) -> None:
    folder = tmp_path / "pretrain"
    weights = site.projector(folder)
    data = ("--data", str(site.captions), "--images", str(site.images), "--output", str(tmp_path / "out"))
    assert main(["probe", str(folder), *data]) == 2
    assert "projector (mm_projector.bin, as stage 1 saves it) only" in capsys.readouterr().err
    (item,) = run(site, tmp_path / "out", folder, "--data", site.captions, "--base", site.tiny.language_model)
    assert (item["kind"], item["template"], item["samples"]) == ("projector", "plain", 12)
    loaded = load_checkpoint(folder, LoadOptions(site.tiny.language_model, None, OPTIONS.device, OPTIONS.dtype))
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert type(loaded.model.model.layers[0].self_attn).__name__ == "LlamaAttention"  # the eager one


def test_a_lora_checkpoint_is_merged_into_its_base(site, tmp_path, capsys) -> None:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "llava-lora"
    weights = site.projector(folder)
    (folder / "mm_projector.bin").unlink()
    torch.save({f"base_model.model.{name}": value for name, value in weights.items()},
               folder / "non_lora_trainables.bin")  # fmt: skip
    torch.manual_seed(5)
    base = load_checkpoint(site.checkpoints[0], OPTIONS).model
    wrapped = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(folder)
    shutil.copy(site.checkpoints[0] / "config.json", folder)
    data = ("--data", str(site.captions), "--images", str(site.images), "--output", str(tmp_path / "out"))
    assert main(["probe", str(folder), *data]) == 2
    assert "holds LoRA weights only" in capsys.readouterr().err
    loaded = load_checkpoint(folder, LoadOptions(site.tiny.language_model, None, OPTIONS.device, OPTIONS.dtype))
    assert (loaded.notes["kind"], loaded.template) == ("LoRA", "v1")
    expected = wrapped.merge_and_unload().state_dict()
    state = loaded.model.state_dict()
    assert all(torch.allclose(state[name], expected[name], atol=1e-6) for name in state if "vision" not in name)
    plain = load_checkpoint(site.checkpoints[0], OPTIONS).model.state_dict()
    assert not torch.allclose(state["model.layers.0.self_attn.q_proj.weight"],
                              plain["model.layers.0.self_attn.q_proj.weight"])  # fmt: skip


@pytest.mark.parametrize("pickled", [False, True])
def test_a_tower_that_was_trained_is_the_checkpoints_own(site, tmp_path, pickled) -> None:
    """Not the original one, which its configuration names."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "tuned"
    shutil.copytree(site.checkpoints[0], folder)
    original = load_checkpoint(site.checkpoints[0], OPTIONS).vision.state_dict()
    tuned = {f"model.vision_tower.{name}": value + 1 for name, value in original.items() if value.is_floating_point()}
    tuned |= {f"model.vision_tower.{name}": v for name, v in original.items() if not v.is_floating_point()}
    weights = load_file(folder / "model.safetensors") | tuned
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors",
                  {"format": "pt"})  # fmt: skip
    found = load_checkpoint(folder, OPTIONS).vision.state_dict()
    assert all(torch.equal(found[name.removeprefix("model.vision_tower.")], value) for name, value in tuned.items())


def test_folders_that_cannot_be_loaded_are_named(site, tmp_path, capsys) -> None:
    data = ("--data", str(site.conversations), "--images", str(site.images), "--output", str(tmp_path / "out"))
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(site.checkpoints[0] / "config.json", empty)
    assert main(["probe", str(empty), *data]) == 2
    assert "no weights" in capsys.readouterr().err
    assert main(["probe", str(site.tiny.language_model), *data]) == 2
    assert "does not load LlamaForCausalLM" in capsys.readouterr().err
    assert main(["probe", str(site.checkpoints[0]), *data, "--template", "v9"]) == 2
    assert "no template 'v9'" in capsys.readouterr().err
    assert main(["probe", str(site.checkpoints[0]), *data, "--template", "plain"]) == 2
    assert "one question and one answer" in capsys.readouterr().err
