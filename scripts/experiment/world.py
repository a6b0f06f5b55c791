"""The world: scenes of coloured shapes, a prior of colour given shape, and what is said and asked of them.

Scenes, places and pictures are the demo's (`llava_vista.tools.demo`). What is different: each shape has a usual colour,
which text-only material and training pictures follow with a set probability, and a sentence names the shape before the
colour, so that a language model can guess the colour without looking. In counterfactual scenes no object has its usual
colour: there only the image helps, and the prior misleads.

Captions go through the places of a scene in an order that a seed draws once. So over seeds, how far into the text an
object comes tells nothing of where it is or how hard it is to see there, and a curve by position is about position.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from settings import World

from llava_vista.tools.demo.scenes import COLORS, PLACES, SHAPES, Scene, SceneObject

USUAL = {"circle": "red", "square": "green", "triangle": "blue", "cross": "yellow"}
REQUEST = "Describe the picture in detail."
#: Said after each sentence in longer captions: nothing in it depends on the picture, and it always comes in this order.
FILLERS = (
    "This is easy to see for anyone who takes the time to look.",
    "There is nothing more to say about this part of the picture.",
    "It is drawn in one plain tone and with a clean edge all around.",
)
NOTES_SHARE = 0.7
QUESTION_SHARE = 0.3
#: Filler of text-only material is one of these: most of it has none, and where there is, there are few objects.
TEXT_FILLERS = (0, 0, 0, 0, 0, 0, 0, 1, 2)
TURNS = 4
Sample = list[tuple[str, bool]]
Record = dict[str, Any]


def make_scenes(world: World, count: int, seed: int, split: str, *, breaking: bool = False) -> list[Scene]:
    """Scenes in which the prior holds as often as the world says, or (``breaking``) for no object at all.

    Every place holds an object. They stand in the order in which captions tell them.
    """
    rng = random.Random(f"{world.prior:g}/{split}/{breaking}/{seed}")
    order, kind = telling_order(seed), "breaking" if breaking else "plain"
    return [
        Scene(f"{split}_{kind}_{index:05d}", tuple(_objects(world, rng, breaking, order))) for index in range(count)
    ]


def telling_order(seed: int) -> list[str]:
    """The order of places in which all captions of a seed go through a scene."""
    return random.Random(f"order/{seed}").sample(PLACES, len(PLACES))


def _objects(world: World, rng: random.Random, breaking: bool, places: Sequence[str]) -> Iterator[SceneObject]:
    for place in places:
        shape = rng.choice(SHAPES)
        usual = USUAL[shape]
        follows = not breaking and rng.random() < world.prior
        yield SceneObject(usual if follows else rng.choice([c for c in COLORS if c != usual]), shape, place)


def tell(thing: SceneObject) -> str:
    """One sentence. The shape comes before the colour, so the prior has a say in the colour."""
    return f"The {thing.place} {thing.shape} is {thing.color}."


def caption(scene: Scene, world: World) -> str:
    """One sentence per object, each followed by the world's filler."""
    sentences = []
    for number, thing in enumerate(scene.objects[: world.objects]):
        sentences.append(tell(thing))
        sentences += [FILLERS[(number + turn) % len(FILLERS)] for turn in range(world.filler)]
    return " ".join(sentences)


def notes(scene: Scene, rng: random.Random) -> str:
    """The scene in telegraph style and shuffled order: what a language model reads in place of a picture."""
    things = rng.sample(scene.objects, len(scene.objects))
    return " , ".join(f"{thing.place} {thing.shape} {thing.color}" for thing in things)


def exchanges(things: Sequence[SceneObject]) -> list[tuple[str, str]]:
    """A question with its answer for each. The shape stands in the question, so the prior suggests an answer."""
    return [(f"What color is the {thing.place} {thing.shape}?", tell(thing)) for thing in things]


def text_samples(prior: float, count: int, seed: int, split: str) -> list[Sample]:
    """Text-only material: parts with a flag for what is learned. Most of it has notes, the rest says what is usual.

    From the first a language model learns to look things up; from the second, the prior. It is of all lengths, so that
    one language model serves worlds of any.
    """
    rng = random.Random(f"text/{prior:g}/{split}/{seed}")
    samples: list[Sample] = []
    for index in range(count):
        filler = rng.choice(TEXT_FILLERS)
        world = World(rng.randint(2, 3 if filler else len(PLACES)), filler, prior)
        places = rng.sample(PLACES, world.objects)
        scene = Scene(f"text_{index}", tuple(_objects(world, rng, False, places)))
        told = f"{notes(scene, rng)}\n" if rng.random() < NOTES_SHARE else ""
        if rng.random() >= QUESTION_SHARE:
            samples.append([(told, False)] * bool(told) + [(f"{caption(scene, world)}\n", True)])
            continue
        sample: Sample = []
        for question, answer in exchanges(scene.objects[:TURNS]):
            opening = "USER:" if sample else f"USER: {told}".rstrip(" ")
            sample += [(f"{opening} {question} ASSISTANT:", False), (f"{answer}</s>", True)]
        samples.append(sample)
    return samples


def turn(human: str, gpt: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]


def caption_record(scene: Scene, world: World) -> Record:
    """A picture and its caption, in LLaVA's format (for both stages: stage 1 leaves the request out)."""
    return {
        "id": scene.name,
        "image": f"{scene.name}.png",
        "conversations": turn(f"<image>\n{REQUEST}", caption(scene, world)),
    }


def question_record(scene: Scene) -> Record:
    """A picture and several questions about it, in LLaVA's format."""
    asked = random.Random(scene.name).sample(scene.objects, TURNS)
    conversations = [part for pair in exchanges(asked) for part in turn(*pair)]
    conversations[0]["value"] = f"<image>\n{conversations[0]['value']}"
    return {"id": scene.name, "image": f"{scene.name}.png", "conversations": conversations}


def finetune_records(scenes: list[Scene], world: World) -> list[Record]:
    """Captions and conversations in turn: half of each."""
    return [caption_record(scene, world) if index % 2 else question_record(scene) for index, scene in enumerate(scenes)]
