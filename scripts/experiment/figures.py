"""The study's figures: steps to look with intervals, and margin against loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effects import OUTCOMES, Arms, Result, effects_of, present
from settings import ARMS, BASELINE

from llava_vista.tools.kit.plots import new_figure, save

#: Ratios that the axis may name.
TICKS = (0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4, 6)
#: Seeds whose runs are drawn one by one.
SEEDS = 5


def draw(arms: Arms, folder: Path) -> None:
    """Write looking.png and margin.png into a folder."""
    with new_figure(7, 4.2) as figure:
        _draw_ratios(figure.subplots(), arms)
        save(figure, [folder / "looking.png"])
    with new_figure(9, 3.8) as figure:
        for axis, method in zip(figure.subplots(1, 2), ("l2", "cosine"), strict=True):
            _draw_margins(axis, arms, method)
        save(figure, [folder / "margin.png"])


def _draw_ratios(axis: Any, arms: Arms) -> None:
    effects = effects_of(arms)
    names = [arm for arm in present(arms) if (arm, next(iter(OUTCOMES))) in effects]
    for index, (outcome, title) in enumerate(OUTCOMES.items()):
        found = [
            (row + 0.3 * index, effects[arm, outcome]) for row, arm in enumerate(names) if (arm, outcome) in effects
        ]
        for row, effect in found:
            axis.plot([effect.low, effect.high], [row, row], color=f"C{index}")
        axis.plot([effect.ratio for _, effect in found], [row for row, _ in found], "os"[index], color=f"C{index}",
                  label=f"until {title}")  # fmt: skip
    axis.axvline(1, color="0.6", linewidth=0.8)
    axis.set(xscale="log", xlabel="steps to look, ratio to cross-entropy alone (95% interval)")
    low, high = axis.get_xlim()
    ticks = [tick for tick in TICKS if low < tick < high]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_yticks([row + 0.15 for row in range(len(names))], names)
    axis.invert_yaxis()
    axis.legend()


def _draw_margins(axis: Any, arms: Arms, method: str) -> None:
    """Runs of the first seeds as lines that end in a dot: the loss's own arms, the baseline, infonce beside cosine."""
    shown = [arm for arm in present(arms) if ARMS[arm].method in (BASELINE, method)]
    shown += [arm for arm in present(arms) if ARMS[arm].method == "infonce" and method == "cosine"]
    for index, arm in enumerate(shown):
        for number, (losses, margins) in enumerate(_traces(arms[arm], method)):
            label = arm if not number else None
            axis.plot(losses, margins, color=f"C{index}", linewidth=0.6, alpha=0.6, label=label)
            axis.plot(losses[-1], margins[-1], "o", color=f"C{index}", markersize=3)
    axis.axhline(0, color="0.6", linewidth=0.8)
    axis.set(xlabel=f"{method} VISTA loss on held-out scenes", ylabel="margin: own text minus others'")
    axis.legend(fontsize=7)


def _traces(results: dict[int, Result], method: str) -> Iterator[tuple[list[float], list[float]]]:
    for seed in sorted(results)[:SEEDS]:
        result = results[seed]
        values = [reading[method] for reading in (*result["pretrain"], *result["readings"])]
        yield [value["loss"] for value in values], [value["margin"] for value in values]
