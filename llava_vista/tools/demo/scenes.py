"""A small world to look at: scenes of coloured shapes, what can be said of them, and what can be asked.

Everything follows from a seed. A scene is a 3 by 3 grid in which some places hold one object each; no two objects of a
scene share both colour and shape.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = (
    "northwest", "north", "northeast",
    "west", "center", "east",
    "southwest", "south", "southeast",
)  # fmt: skip
GRID = 3
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
        """What it is called in captions and questions, such as "red circle"."""
        return f"{self.color} {self.shape}"

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column in the grid."""
        return divmod(PLACES.index(self.place), GRID)


@dataclass(frozen=True)
class Scene:
    """A picture's content: its objects in reading order."""

    name: str
    objects: tuple[SceneObject, ...]

    def at(self, place: str) -> SceneObject | None:
        """The object at a place, if there is one."""
        return next((thing for thing in self.objects if thing.place == place), None)


@dataclass(frozen=True)
class Question:
    """A question about one scene with its short answer; ``kind`` is one of QUESTION_KINDS."""

    kind: str
    text: str
    answer: str


def make_scenes(
    count: int, seed: int = 0, *, min_objects: int = 2, max_objects: int = 4, prefix: str = "scene"
) -> list[Scene]:
    """Draw ``count`` scenes; the same arguments always give the same scenes.

    Raises:
        ValueError: more objects asked for than the grid has places.
    """
    if not 1 <= min_objects <= max_objects <= len(PLACES):
        raise ValueError(
            f"a scene holds between 1 and {len(PLACES)} objects, got min_objects={min_objects}, "
            f"max_objects={max_objects}"
        )
    rng = random.Random(f"{prefix}/{seed}")
    kinds = [(color, shape) for color in COLORS for shape in SHAPES]
    scenes = []
    for index in range(count):
        number = rng.randint(min_objects, max_objects)
        places = sorted(rng.sample(range(len(PLACES)), number))
        looks = rng.sample(kinds, number)
        objects = tuple(
            SceneObject(color, shape, PLACES[place]) for (color, shape), place in zip(looks, places, strict=True)
        )
        scenes.append(Scene(f"{prefix}_{index:05d}", objects))
    return scenes


def caption(scene: Scene, mentions: int | None = None) -> str:
    """Describe the scene in words, one sentence per object.

    Args:
        mentions: how many objects to describe, which sets the length of the text; all of them by default.
    """
    things = scene.objects if mentions is None else scene.objects[:mentions]
    number = len(scene.objects)
    opening = f"The picture shows {NUMBERS[number]} object{'' if number == 1 else 's'}."
    return " ".join([opening, *(f"In the {thing.place} there is a {thing.name}." for thing in things)])


def notes(scene: Scene, rng: random.Random) -> str:
    """The scene in telegraph style and shuffled order: what a language model reads in place of a picture."""
    things = list(scene.objects)
    rng.shuffle(things)
    return " , ".join(f"{thing.place} {thing.name}" for thing in things)


def questions(scene: Scene, seed: int = 0, kinds: tuple[str, ...] = QUESTION_KINDS) -> list[Question]:
    """Every question of these kinds that has one right answer in this scene, in shuffled order."""
    rng = random.Random(f"{scene.name}/{seed}")
    found: list[Question] = []
    for thing in scene.objects:
        found.append(
            Question("what_at", f"What is in the {thing.place}?", f"In the {thing.place} there is a {thing.name}.")
        )
        if sum(other.shape == thing.shape for other in scene.objects) == 1:
            found.append(
                Question("color_of", f"What color is the {thing.shape}?", f"The {thing.shape} is {thing.color}.")
            )
        if sum(other.color == thing.color for other in scene.objects) == 1:
            found.append(
                Question(
                    "shape_of",
                    f"What shape is the {thing.color} object?",
                    f"The {thing.color} object is a {thing.shape}.",
                )
            )
        found.append(Question("place_of", f"Where is the {thing.name}?", f"The {thing.name} is in the {thing.place}."))
    rng.shuffle(found)
    return [question for question in found if question.kind in kinds]
