"""Scenes drawn as images."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw

from .scenes import GRID, Scene

RGB = {
    "red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 90, 220),
    "yellow": (240, 210, 20), "purple": (130, 40, 170), "orange": (255, 127, 14),
}  # fmt: skip
BACKGROUND = (236, 236, 232)
_SUPERSAMPLING = 4
#: Shapes made of rectangles: half of each one's width and height, in units of the object's radius.
_RECTANGLES = {"square": [(0.88, 0.88)], "cross": [(1, 0.32), (0.32, 1)]}


def draw_scene(scene: Scene, size: int = 96) -> Image.Image:
    """Draw a scene as a square RGB image; object sizes vary a little, by the scene's name."""
    rng = random.Random(scene.name)
    canvas = Image.new("RGB", (size * _SUPERSAMPLING,) * 2, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    cell = size * _SUPERSAMPLING / GRID
    for thing in scene.objects:
        row, column = thing.cell
        r = cell * rng.uniform(0.36, 0.42)
        x, y = ((place + 0.5) * cell + cell * rng.uniform(-0.04, 0.04) for place in (column, row))
        fill = RGB[thing.color]
        if thing.shape == "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        elif thing.shape == "triangle":
            draw.polygon([(x, y - r), (x + r, y + r * 0.85), (x - r, y + r * 0.85)], fill=fill)
        for width, height in _RECTANGLES.get(thing.shape, ()):
            draw.rectangle((x - r * width, y - r * height, x + r * width, y + r * height), fill=fill)
    return canvas.resize((size, size), Image.Resampling.LANCZOS)


def save_pictures(scenes: Iterable[Scene], folder: Path, size: int = 96) -> None:
    """Write each scene as ``<folder>/<scene name>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        draw_scene(scene, size).save(folder / f"{scene.name}.png")
