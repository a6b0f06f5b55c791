"""The demo's data in LLaVA's own formats.

Stage 1 looks like ``blip_laion_cc_sbu_558k.json`` (an image and its caption), stage 2 like ``llava_v1_5_mix665k.json``
(conversations of several turns, some of them without an image). Text-only material, in which notes stand where a
picture would be, teaches the language model its language before it ever sees an image.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import SYSTEM_PROMPT
from .render import save_pictures
from .scenes import ATTRIBUTE_KINDS, Question, Scene, caption, make_scenes, notes, questions

CAPTION_REQUESTS = (
    "Describe the picture in detail.",
    "What do you see in the picture?",
    "Tell me everything that is in the picture.",
)
CAPTION_SHARE = 0.6
SYSTEM_SHARE = 0.2
_Record = dict[str, Any]
TextSample = list[tuple[str, bool]]


@dataclass(frozen=True)
class DataSizes:
    """How much data to make."""

    pretrain_scenes: int = 600
    finetune_scenes: int = 600
    text_only: int = 60
    turns: int = 4
    heldout_questions: int = 200
    text_scenes: int = 3000


@dataclass(frozen=True)
class DataPaths:
    """Where `write_data` put everything."""

    images: Path
    pretrain: Path
    finetune: Path
    heldout: Path


def turn(human: str, gpt: str) -> list[dict[str, str]]:
    """One exchange in LLaVA's conversation format."""
    return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]


def caption_record(scene: Scene, rng: random.Random) -> _Record:
    """A stage-1 sample: the image and its whole description."""
    request = rng.choice(CAPTION_REQUESTS)
    human = rng.choice([f"<image>\n{request}", f"{request}\n<image>"])
    return {"id": scene.name, "image": f"{scene.name}.png", "conversations": turn(human, caption(scene))}


def question_record(scene: Scene, asked: Sequence[Question]) -> _Record:
    """A stage-2 sample: several questions about one image."""
    conversations = [part for question in asked for part in turn(question.text, question.answer)]
    conversations[0]["value"] = "<image>\n" + conversations[0]["value"]
    return {"id": scene.name, "image": f"{scene.name}.png", "conversations": conversations}


def text_record(scene: Scene, asked: Sequence[Question], rng: random.Random) -> _Record:
    """A stage-2 sample without an image: the same questions about a scene told in words."""
    conversations = [part for question in asked for part in turn(question.text, question.answer)]
    conversations[0]["value"] = f"{notes(scene, rng)}\n{conversations[0]['value']}"
    return {"id": scene.name, "conversations": conversations}


def heldout_records(scenes: Sequence[Scene], count: int, seed: int) -> list[_Record]:
    """Questions on unseen scenes, in the format of LLaVA's evaluation scripts, of the kinds that need the image."""
    rng = random.Random(seed)
    records = []
    for index, scene in enumerate(scenes):
        kind = ATTRIBUTE_KINDS[index % len(ATTRIBUTE_KINDS)]
        found = questions(scene, seed, (kind,)) or questions(scene, seed, ("what_at",))
        question = rng.choice(found)
        records.append(
            {
                "question_id": index,
                "image": f"{scene.name}.png",
                "kind": question.kind,
                "text": question.text,
                "answer": question.answer,
            }
        )
    return records[:count]


def text_samples(count: int, seed: int, turns: int) -> list[TextSample]:
    """What the language model reads before it becomes a LLaVA: descriptions and conversations, no picture anywhere.

    Returns:
        samples, each a list of parts; the flag says whether the model learns to say a part or only reads it.
    """
    rng = random.Random(f"text/{seed}")
    samples: list[TextSample] = []
    for scene in make_scenes(count, seed, prefix="text"):
        told = notes(scene, rng)
        if rng.random() < CAPTION_SHARE:
            samples.append([(told, False), (f"{caption(scene)}\n", True)])
            continue
        system = f"{SYSTEM_PROMPT} " if rng.random() < SYSTEM_SHARE else ""
        sample: TextSample = []
        for question in questions(scene, seed)[:turns]:
            opening = "USER:" if sample else f"{system}USER: {told}\n"
            sample += [(f"{opening} {question.text} ASSISTANT:", False), (f"{question.answer}</s>", True)]
        samples.append(sample)
    return samples


def write_data(directory: Path, sizes: DataSizes, seed: int, image_size: int) -> DataPaths:
    """Render the scenes and write the three JSON files; the held-out scenes are in neither training set."""
    paths = DataPaths(
        images=directory / "images",
        pretrain=directory / "pretrain.json",
        finetune=directory / "finetune.json",
        heldout=directory / "heldout.json",
    )
    pretrain = make_scenes(sizes.pretrain_scenes, seed, prefix="pretrain")
    finetune = make_scenes(sizes.finetune_scenes, seed, prefix="finetune")
    seen = {scene.objects for scene in (*pretrain, *finetune)}
    heldout = [
        scene for scene in make_scenes(sizes.heldout_questions * 2, seed, prefix="heldout") if scene.objects not in seen
    ][: sizes.heldout_questions]
    save_pictures((*pretrain, *finetune, *heldout), paths.images, image_size)

    rng = random.Random(f"records/{seed}")
    mix = [question_record(scene, questions(scene, seed)[: sizes.turns]) for scene in finetune]
    for scene in make_scenes(sizes.text_only, seed, prefix="words"):
        mix.append(text_record(scene, questions(scene, seed)[: sizes.turns], rng))
    rng.shuffle(mix)
    for path, records in (
        (paths.pretrain, [caption_record(scene, rng) for scene in pretrain]),
        (paths.finetune, mix),
        (paths.heldout, heldout_records(heldout, sizes.heldout_questions, seed)),
    ):
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return paths
