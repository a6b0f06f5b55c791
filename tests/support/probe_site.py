"""What the probe's tests look at: two checkpoints of the real LLaVA-1.5 classes with data, and the command on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from llava_vista.cli import main
from llava_vista.tools.demo.scene_dataset import DataSizes, write_data
from llava_vista.tools.demo.scenes import caption, make_scenes
from llava_vista.tools.demo.tiny_checkpoint import build_tiny_llava
from llava_vista.tools.probe.hosts import LoadOptions

OPTIONS = LoadOptions(None, None, torch.device("cpu"), torch.float32)


class Site:
    """Two checkpoints that differ in their weights, and the data that they are probed on."""

    def __init__(self, root: Path) -> None:
        from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM
        from transformers import AutoTokenizer

        self.root = root
        texts = [caption(scene) for scene in make_scenes(40)]
        self.tiny = build_tiny_llava(root / "setup", texts=texts, hidden_size=32, heads=4, layers=2,
                                     intermediate_size=48, vision_hidden_size=16)  # fmt: skip
        data = write_data(root / "data", DataSizes(12, 12, 3, 3, 6), seed=0, image_size=96)
        self.images, self.captions, self.conversations, self.questions = (
            data.images, data.pretrain, data.finetune, data.heldout,
        )  # fmt: skip
        config = LlavaConfig.from_pretrained(self.tiny.language_model)
        config.update(
            {
                "mm_vision_tower": str(self.tiny.vision_tower),
                "mm_hidden_size": 16,
                "mm_projector_type": "mlp2x_gelu",
                "mm_vision_select_layer": -2,
                "image_aspect_ratio": "pad",
                "tokenizer_model_max_length": 2048,
            }
        )
        self.checkpoints = []
        for seed, name in enumerate(("baseline", "vista")):
            torch.manual_seed(seed)
            model = LlavaLlamaForCausalLM.from_pretrained(self.tiny.language_model, config=config)
            for parameter in model.model.mm_projector.parameters():
                torch.nn.init.normal_(parameter, std=0.5)  # images that matter
            model.save_pretrained(root / name / "finetune")
            AutoTokenizer.from_pretrained(self.tiny.language_model, use_fast=False).save_pretrained(
                root / name / "finetune"
            )
            self.checkpoints.append(root / name / "finetune")

    def projector(self, folder: Path) -> dict[str, torch.Tensor]:
        """A stage-1 folder as LLaVA saves it; what is in it."""
        from safetensors.torch import load_file

        folder.mkdir()
        shutil.copy(self.checkpoints[0] / "config.json", folder)
        weights = load_file(self.checkpoints[0] / "model.safetensors")
        kept = {name: value for name, value in weights.items() if "mm_projector" in name}
        torch.save(kept, folder / "mm_projector.bin")
        return kept


def run(site: Site, output: Path, *words: object) -> list[dict[str, Any]]:
    """Run the command; the records of comparison.json."""
    command = ["probe", *map(str, words), "--images", str(site.images), "--output", str(output)]
    assert main(command) == 0
    return json.loads((output / "comparison.json").read_text())["records"]
