"""The demo's data in LLaVA's own formats.

Stage 1 looks like ``blip_laion_cc_sbu_558k.json`` (an image and its caption), stage 2 like ``llava_v1_5_mix665k.json``
(conversations of several turns, some of them without an image). Text-only samples, with keywords in place of an image,
are for the pre-training of the language model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .scene_pictures import save_pictures
from .scenes import ATTRIBUTE_KINDS, Question, Scene, caption, make_scenes, notes, questions
from .tiny_checkpoint import SYSTEM_PROMPT

CAPTION_REQUESTS = (
    "Describe the picture in detail.", "What do you see in the picture?", "Tell me everything that is in the picture.",
)  # fmt: skip
CAPTION_SHARE, SYSTEM_SHARE = 0.6, 0.2
_Record = dict[str, Any]
TextSample = list[tuple[str, bool]]


@dataclass(frozen=True)
class DataSizes:
    """Number of scenes, samples and questions."""

    pretrain_scenes: int = 600
    finetune_scenes: int = 600
    text_only: int = 60
    turns: int = 4
    heldout_questions: int = 200


class DataPaths(NamedTuple):
    """Paths of what `write_data` wrote."""

    images: Path
    pretrain: Path
    finetune: Path
    heldout: Path


def conversation(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Return (human, gpt) turns in LLaVA's conversation format."""
    return [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]


def caption_record(scene: Scene, rng: random.Random) -> _Record:
    """Return a stage-1 sample: the image and its whole description."""
    request = rng.choice(CAPTION_REQUESTS)
    human = rng.choice([f"<image>\n{request}", f"{request}\n<image>"])
    return {"id": scene.name, "image": f"{scene.name}.png", "conversations": conversation([(human, caption(scene))])}


def question_record(scene: Scene, asked: Sequence[Question], opening: str = "<image>") -> _Record:
    """Return a stage-2 sample: questions about one image, or about the keywords given as ``opening`` in its place."""
    conversations = conversation([(question.text, question.answer) for question in asked])
    conversations[0]["value"] = f"{opening}\n{conversations[0]['value']}"
    image = {"image": f"{scene.name}.png"} if opening == "<image>" else {}
    return {"id": scene.name, **image, "conversations": conversations}


def heldout_records(scenes: Sequence[Scene], seed: int) -> list[_Record]:
    """Return questions about scenes, of the kinds that need the image, in the format of LLaVA's evaluation scripts."""
    rng = random.Random(seed)
    records = []
    for index, scene in enumerate(scenes):
        kind = ATTRIBUTE_KINDS[index % len(ATTRIBUTE_KINDS)]
        found = questions(scene, seed, (kind,)) or questions(scene, seed, ("what_at",))
        question = rng.choice(found)
        asked = {"kind": question.kind, "text": question.text, "answer": question.answer}
        records.append({"question_id": index, "image": f"{scene.name}.png", **asked})
    return records


def text_samples(count: int, seed: int, turns: int) -> list[TextSample]:
    """Return captions and conversations without images, each as a list of (text, whether the text has labels)."""
    rng = random.Random(f"text/{seed}")
    samples: list[TextSample] = []
    for scene in make_scenes(count, seed, prefix="text"):
        keywords = notes(scene, rng)
        if rng.random() < CAPTION_SHARE:
            samples.append([(keywords, False), (f"{caption(scene)}\n", True)])
            continue
        system = f"{SYSTEM_PROMPT} " if rng.random() < SYSTEM_SHARE else ""
        sample: TextSample = []
        for question in questions(scene, seed)[:turns]:
            opening = "USER:" if sample else f"{system}USER: {keywords}\n"
            sample += [(f"{opening} {question.text} ASSISTANT:", False), (f"{question.answer}</s>", True)]
        samples.append(sample)
    return samples


def write_data(directory: Path, sizes: DataSizes, seed: int, image_size: int) -> DataPaths:
    """Draw the scenes and write the three JSON files. No held-out scene is in a training set."""
    files = [directory / f"{name}.json" for name in ("pretrain", "finetune", "heldout")]
    pretrain = make_scenes(sizes.pretrain_scenes, seed, prefix="pretrain")
    finetune = make_scenes(sizes.finetune_scenes, seed, prefix="finetune")
    seen = {scene.objects for scene in (*pretrain, *finetune)}
    drawn = make_scenes(sizes.heldout_questions * 2, seed, prefix="heldout")
    heldout = [scene for scene in drawn if scene.objects not in seen][: sizes.heldout_questions]
    save_pictures((*pretrain, *finetune, *heldout), directory / "images", image_size)

    rng = random.Random(f"records/{seed}")
    mix = [question_record(scene, questions(scene, seed)[: sizes.turns]) for scene in finetune]
    for scene in make_scenes(sizes.text_only, seed, prefix="words"):
        mix.append(question_record(scene, questions(scene, seed)[: sizes.turns], notes(scene, rng)))
    rng.shuffle(mix)
    records = [[caption_record(scene, rng) for scene in pretrain], mix, heldout_records(heldout, seed)]
    for path, content in zip(files, records, strict=True):
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return DataPaths(directory / "images", *files)
