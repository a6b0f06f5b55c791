"""How the objective's cost grows with L, m, B, d and the number of images: forward and backward, l2, bfloat16.

    python scripts/bench/growth.py

One size varies, the others are fixed. A slope of 1 in the log-log plot is linear; a smaller one shows a fixed cost.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from bench_kit import alternate, milliseconds, parser, save, start
from objective import make_case
from published import Spans

#: What varies -> its values; the base is B=8, L=2048 with 576 image positions, d=2048.
BATCH, LENGTH, WIDTH, IMAGE = 8, 2048, 2048, 576
VALUES = {
    "L": [1024, 2048, 4096, 8192],
    "m": [512, 1024, 2048, 4096],
    "B": [4, 8, 16, 32],
    "d": [1024, 2048, 4096, 8192],
    "images": [4, 8, 16, 32],
}
SMOKE = {"L": [32, 64], "m": [8, 16], "B": [1, 2], "d": [8, 16], "images": [1, 2]}
NOTES = {
    "L": "sequence length (9/32 of it image positions, the rest text)",
    "m": "text tokens (L = 4672: 576 image positions, m text, the rest padding)",
    "B": "batch size",
    "d": "hidden size",
    "images": "images of 128 positions (m = 512)",
}


def setting(axis: str, value: int, smoke: bool) -> tuple[tuple[int, int, int], Spans, int]:
    """Return shape (B, L, d), image spans and length without padding."""
    batch, length, width, image = (2, 32, 8, 8) if smoke else (BATCH, LENGTH, WIDTH, IMAGE)
    if axis == "images":
        rows, between = (4, 8) if smoke else (128, 512)
        spans, position = [], 0
        for _ in range(value):  # the text is spread evenly around them
            position += between // (value + 1)
            spans.append((position, position + rows))
            position += rows
        length = value * rows + between
        return (batch, length, width), spans, length
    if axis == "L":
        image = image * value // length
    spans = [(4, 4 + image)]
    if axis == "m":
        longest = max((SMOKE if smoke else VALUES)["m"])
        return (batch, image + longest, width), spans, image + value
    sizes = {"B": batch, "L": length, "d": width, axis: value}
    return (sizes["B"], sizes["L"], sizes["d"]), spans, sizes["L"]


def slope(points: list[tuple[float, float]]) -> float:
    """Return the least-squares slope of log y over log x."""
    x, y = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    return statistics.linear_regression(x, y).slope


def measure(axis: str, value: int, options: Any) -> dict[str, Any]:
    """Measure one point."""
    shape, spans, length = setting(axis, value, options.smoke)
    cases = {
        trained: make_case(shape, torch.bfloat16, options.device, trained=trained, spans=spans, length=length)
        for trained in (False, True)
    }

    def step(trained: bool) -> None:
        cases[trained].clear()
        cases[trained].ours("l2").backward()

    arms = {
        "frozen": lambda: step(False),
        "trained": lambda: step(True),
        "clone": lambda: cases[False].inputs_embeds.detach().clone(),
    }
    times = alternate(arms, options.rounds, options.device, seconds=20)
    return {
        "axis": axis,
        "value": value,
        "shape": list(shape),
        "ms": {name: milliseconds(values) for name, values in times.items()},
    }


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__).parse_args(arguments)
    start(options)
    rows: list[dict[str, Any]] = []
    slopes: dict[str, dict[str, float]] = {}
    for axis, values in (SMOKE if options.smoke else VALUES).items():
        points = [measure(axis, value, options) for value in values]
        rows += points
        slopes[axis] = {
            arm: round(slope([(point["value"], point["ms"][arm]) for point in points]), 3)
            for arm in ("frozen", "trained", "clone")
        }
        print(axis, [(point["value"], point["ms"]) for point in points], slopes[axis], flush=True)
        save("growth", options, rows, slopes=slopes, notes=NOTES)


if __name__ == "__main__":
    main()
