"""Scenes drawn as images."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw

from .scenes import GRID, Scene

RGB = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 90, 220),
    "yellow": (240, 210, 20),
    "purple": (130, 40, 170),
    "orange": (255, 127, 14),
}
BACKGROUND = (236, 236, 232)
_SUPERSAMPLING = 4


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: tuple[int, ...]
) -> None:
    """Draw one shape around its centre."""
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "square":
        half = radius * 0.88
        draw.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x + radius, y + radius * 0.85), (x - radius, y + radius * 0.85)], fill=fill)
    else:  # a cross
        arm = radius * 0.32
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)


def draw_scene(scene: Scene, size: int = 96) -> Image.Image:
    """Draw a scene as a square RGB image; object sizes vary a little, by the scene's name."""
    rng = random.Random(scene.name)
    canvas = Image.new("RGB", (size * _SUPERSAMPLING,) * 2, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    cell = size * _SUPERSAMPLING / GRID
    for thing in scene.objects:
        row, column = thing.cell
        radius = cell * rng.uniform(0.36, 0.42)
        jitter_x, jitter_y = (cell * rng.uniform(-0.04, 0.04) for _ in range(2))
        x, y = (column + 0.5) * cell + jitter_x, (row + 0.5) * cell + jitter_y
        _draw_shape(draw, thing.shape, x, y, radius, RGB[thing.color])
    return canvas.resize((size, size), Image.Resampling.LANCZOS)


def save_pictures(scenes: Iterable[Scene], folder: Path, size: int = 96) -> None:
    """Write each scene as ``<folder>/<scene name>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        draw_scene(scene, size).save(folder / f"{scene.name}.png")
