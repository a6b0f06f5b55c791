"""What the arms of one seed share: tokenizer, language model taught by text alone, frozen tower, projector, data.

Kept in a folder and used again, whichever arm comes next. As in practice, language model and tower are given: one pair
for all seeds. A seed decides the rest: scenes to train on and to be scored on, the projector, the order of samples.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from settings import Run
from torch import Tensor
from world import REQUEST, Record, caption_record, finetune_records, make_scenes, text_samples

from llava_vista.tools.demo.scene_pictures import draw_scene
from llava_vista.tools.demo.scenes import COLORS, Scene
from llava_vista.tools.demo.text_pretraining import pretrain_text
from llava_vista.tools.demo.tiny_checkpoint import build_tiny_llava
from llava_vista.tools.kit.untrained_projector import write_projector as write_untrained

#: The tower's layer that LLaVA-1.5 takes its features from.
LAYER = -2
#: Of the pre-trained parts, whatever a run's own seed.
BASE_SEED = 0


@dataclass(frozen=True)
class Setup:
    """A finished set-up in ``folder``; what it holds is read when asked for."""

    run: Run
    base: Path
    folder: Path

    @property
    def language_model(self) -> Path:
        return self.base / "language_model"

    @property
    def vision_tower(self) -> Path:
        return self.base / "vision_tower"

    @property
    def projector(self) -> Path:
        return self.folder / "projector.bin"

    @cached_property
    def records(self) -> dict[str, list[Record]]:
        """Training records of each stage, and captions of the held-out scenes (``breaking``)."""
        world, scenes = self.run.world, make_scenes_of(self.run)
        records = {name: [caption_record(scene, world) for scene in part] for name, part in scenes.items()}
        return {**records, "finetune": finetune_records(scenes["finetune"], world)}

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Per picture, the tower's features (1 + patches, d): the tower is frozen, so once is enough."""
        found: dict[str, Tensor] = torch.load(self.folder / "features.pt", weights_only=True)
        return found

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.language_model, use_fast=False)

    @cached_property
    def fingerprint(self) -> str:
        """Of the pre-trained parts: the same recipe gives other last digits, and so other weights, on another CPU."""
        found = hashlib.sha256()
        for folder in (self.language_model, self.vision_tower):
            for file in sorted(folder.glob("*.safetensors")):
                found.update(file.read_bytes())
        return found.hexdigest()[:12]


def make_scenes_of(run: Run) -> dict[str, list[Scene]]:
    """Scenes of each stage, and held-out ones in which no object has its usual colour."""
    world, sizes, seed = run.world, run.sizes, run.seed
    scenes = {
        "pretrain": make_scenes(world, sizes.pretrain_steps * sizes.batch, seed, "pretrain"),
        "finetune": make_scenes(world, sizes.finetune_steps * sizes.batch, seed, "finetune"),
    }
    seen = {scene.objects for stage in scenes.values() for scene in stage}
    held = make_scenes(world, sizes.scenes, seed, "test", breaking=True)
    return {**scenes, "breaking": [scene for scene in held if scene.objects not in seen]}


def prepare(run: Run, work: Path, device: str = "cpu") -> Setup:
    """Make the set-up of a run's seed and world under ``work``, or take the one that is there."""
    base, folder = prepare_base(run, work, device), work / "setups" / run.setup_name

    def make(making: Path) -> None:
        write_projector(making / "projector.bin", run.seed, base)
        torch.save(_features(run, base / "vision_tower", device), making / "features.pt")

    made_once(folder, make)
    return Setup(run, base, folder)


def prepare_base(run: Run, work: Path, device: str = "cpu") -> Path:
    """The pre-trained parts: language model (text alone) and tower. One for all seeds, as in practice."""
    sizes, prior = run.sizes, run.world.prior
    folder = work / "bases" / f"prior{prior:g}-{sizes.base_name}"

    def make(making: Path) -> None:
        samples = text_samples(prior, sizes.text_batch * sizes.text_steps, BASE_SEED, "train")
        texts = [text.replace("</s>", "\n") for sample in samples[:600] for text, _ in sample]
        texts += [REQUEST, *(f"a thing in {word}" for word in COLORS)]
        tiny = build_tiny_llava(
            making, texts=texts, seed=BASE_SEED, hidden_size=sizes.hidden, layers=sizes.layers, heads=sizes.heads,
            intermediate_size=2 * sizes.hidden, image_size=sizes.image_size, patch_size=sizes.patch_size,
        )  # fmt: skip
        _process_as_is(tiny.vision_tower)
        losses = pretrain_text(
            tiny.language_model,
            samples,
            steps=sizes.text_steps,
            batch_size=sizes.text_batch,
            learning_rate=sizes.text_rate,
            seed=BASE_SEED,
            device=device,
        )
        (making / "text_losses.json").write_text(json.dumps([round(loss, 4) for loss in losses]))

    made_once(folder, make)
    return folder


def _process_as_is(tower: Path) -> None:
    """Pictures have the tower's size: resizing and cropping would give them back as they are, in most of the time."""
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor.from_pretrained(tower)
    processor.do_resize = processor.do_center_crop = False
    processor.save_pretrained(tower)


def made_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Have ``folder`` made, unless it is there; a folder that stands is a finished one."""
    if folder.exists():
        return
    making = folder.with_name(f"{folder.name}.making-{os.getpid()}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    make(making)
    try:
        making.rename(folder)
    except OSError:  # somebody else has finished the same one
        shutil.rmtree(making)


def write_projector(path: Path, seed: int, base: Path) -> None:
    """The untrained projector that all arms of a seed start from."""
    from transformers import CLIPVisionConfig, LlamaConfig

    widths = (CLIPVisionConfig.from_pretrained(base / "vision_tower").hidden_size,
              LlamaConfig.from_pretrained(base / "language_model").hidden_size)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_untrained(path, *widths)


@torch.no_grad()
def _features(run: Run, tower: Path, device: str) -> dict[str, Tensor]:
    from transformers import CLIPImageProcessor, CLIPVisionModel

    model = CLIPVisionModel.from_pretrained(tower).eval().to(device)
    processor = CLIPImageProcessor.from_pretrained(tower)
    scenes = [scene for part in make_scenes_of(run).values() for scene in part]
    found: dict[str, Tensor] = {}
    for start in range(0, len(scenes), 64):
        part = scenes[start : start + 64]
        pictures = [draw_scene(scene, run.sizes.image_size) for scene in part]
        pixels = processor(pictures, return_tensors="pt")["pixel_values"].to(device)
        states = model(pixels, output_hidden_states=True).hidden_states[LAYER].cpu()  # (B, 1 + patches, d)
        found.update({f"{scene.name}.png": state.clone() for scene, state in zip(part, states, strict=True)})
    return found
