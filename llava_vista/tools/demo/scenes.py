"""Scenes of coloured shapes, with captions and questions about them.

The seed determines everything. A scene is a 3 by 3 grid in which some places hold one object each; no two objects of a
scene share both colour and shape.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("northwest", "north", "northeast", "west", "center", "east", "southwest", "south", "southeast")
GRID = 3
#: Fewest and most objects of a scene.
OBJECTS = (2, 4)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

#: The kinds of question whose answer cannot be guessed from the words: attributes are drawn uniformly.
ATTRIBUTE_KINDS = ("what_at", "color_of", "shape_of")
QUESTION_KINDS = (*ATTRIBUTE_KINDS, "place_of")


@dataclass(frozen=True)
class SceneObject:
    """One coloured shape at one place."""

    color: str
    shape: str
    place: str

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def cell(self) -> tuple[int, int]:
        """Return (row, column) in the grid."""
        return divmod(PLACES.index(self.place), GRID)


@dataclass(frozen=True)
class Scene:
    """A picture's content: its objects in reading order."""

    name: str
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class Question:
    """A question about one scene with its short answer; ``kind`` is one of QUESTION_KINDS."""

    kind: str
    text: str
    answer: str


def make_scenes(count: int, seed: int = 0, *, prefix: str = "scene") -> list[Scene]:
    """Draw ``count`` random scenes; the same arguments give the same scenes."""
    rng = random.Random(f"{prefix}/{seed}")
    kinds = [(color, shape) for color in COLORS for shape in SHAPES]
    scenes = []
    for index in range(count):
        number = rng.randint(*OBJECTS)
        places = sorted(rng.sample(range(len(PLACES)), number))
        looks = zip(rng.sample(kinds, number), places, strict=True)
        objects = tuple(SceneObject(color, shape, PLACES[place]) for (color, shape), place in looks)
        scenes.append(Scene(f"{prefix}_{index:05d}", objects))
    return scenes


def caption(scene: Scene) -> str:
    """Describe the scene, one sentence per object."""
    opening = f"The picture shows {NUMBERS[len(scene.objects)]} objects."
    return " ".join([opening, *(f"In the {thing.place} there is a {thing.name}." for thing in scene.objects)])


def notes(scene: Scene, rng: random.Random) -> str:
    """Return the scene as keywords in random order: the language model reads them in place of an image."""
    things = list(scene.objects)
    rng.shuffle(things)
    return " , ".join(f"{thing.place} {thing.name}" for thing in things)


def questions(scene: Scene, seed: int = 0, kinds: tuple[str, ...] = QUESTION_KINDS) -> list[Question]:
    """Return every question of these kinds that has one correct answer in this scene, in random order."""
    rng = random.Random(f"{scene.name}/{seed}")
    found = []
    for thing in scene.objects:
        color, shape, place, name = thing.color, thing.shape, thing.place, thing.name
        found.append(Question("what_at", f"What is in the {place}?", f"In the {place} there is a {name}."))
        if sum(other.shape == shape for other in scene.objects) == 1:
            found.append(Question("color_of", f"What color is the {shape}?", f"The {shape} is {color}."))
        if sum(other.color == color for other in scene.objects) == 1:
            answer = f"The {color} object is a {shape}."
            found.append(Question("shape_of", f"What shape is the {color} object?", answer))
        found.append(Question("place_of", f"Where is the {name}?", f"The {name} is in the {place}."))
    rng.shuffle(found)
    return [question for question in found if question.kind in kinds]
