"""Table of RESULTS.md and figure, from the JSON files of the other benchmarks.

python scripts/bench/plot.py        # writes the table into RESULTS.md, and results/performance.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_kit import RESULTS, file_name

from llava_vista.tools.kit.plots import new_figure, save

PAGE = RESULTS.parent / "RESULTS.md"
#: The table is between these lines of the page.
TABLE_BEGIN, TABLE_END = "<!-- table -->\n", "<!-- end of table -->"

Document = dict[str, Any]
REFERENCE = [8, 1024, 4096]
KEPT = (
    " The process keeps the memory that it frees, as on a GPU: mapping it again costs a clone, or a gradient, several"
    " times what writing it does, and would hide the rest."
)
LABELS = {
    "L": "sequence length L",
    "m": "text tokens m (rest padding)",
    "B": "batch size B",
    "d": "hidden size d",
    "images": "images of 128 positions (m = 512)",
}
COLOURS = {"trained": "#c2410c", "frozen": "#1d4ed8", "clone": "#6b7280", "published": "#111827"}


def load(folder: Path, name: str, device: str) -> Document | None:
    path = folder / file_name(name, device, False)
    return json.loads(path.read_text()) if path.is_file() else None


def span(values: list[float], form: Callable[[float], str]) -> str:
    """Return "low to high", or one value where both are the same as text."""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}"


def pick(document: Document, **wanted: Any) -> list[Document]:
    return [row for row in document["rows"] if all(row[key] == value for key, value in wanted.items())]


def times(value: float) -> str:
    return f"{value:.1f}x"


def percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def not_run(command: str) -> str:
    return f"not run: `python scripts/bench/{command}`"


def objective_rows(cpu: Document | None, gpu: Document | None) -> list[tuple[str, str, str]]:
    """Compare with the published arithmetic and with a clone, at the reference shape in bfloat16."""
    rows = []
    shape = f"({', '.join(map(str, REFERENCE))}) bf16"
    for trained, name in ((False, "frozen"), (True, "trained")):
        measured = memory = not_run("objective.py")
        if cpu:
            found = pick(cpu, shape=REFERENCE, dtype="bfloat16", trained=trained)
            found = [row for row in found if "faster_than_published" in row]
            measured = span([row["faster_than_published"] for row in found], times)
            memory = span([row["extra_memory_share"] for row in found], percent)
        rows += [
            (f"faster than the published arithmetic, CPU, {shape}, {name} embeddings", "10x", measured),
            (f"its extra memory against that of the published arithmetic, {name} embeddings", "at most 2%", memory),
        ]
    for trained, name, goals in ((False, "frozen", (3, 2)), (True, "trained", (5, 4))):
        for document, device, goal in zip((cpu, gpu), ("CPU", "GPU"), goals, strict=True):
            measured = not_run("objective.py" if device == "CPU" else "objective.py --device cuda")
            if document:
                found = pick(document, shape=REFERENCE, dtype="bfloat16", trained=trained)
                measured = span([row["times_clone"] for row in found], times)
                if device == "CPU":
                    parts = span([row["gradients_share"] for row in found], lambda value: f"{100 * value:.0f}%")
                    measured += f" ({parts} of it: making the gradients, of zeros)"
            rows.append((f"against one clone of `inputs_embeds`, {device}, {name}", f"at most {goal}x", measured))
    return rows


def step_rows(folder: Path) -> list[tuple[str, str, str]]:
    rows = []
    for size, device, goal, command in (
        ("7b", "cuda", "at most 0.5%", "step.py 7b --device cuda"),
        ("d1024", "cpu", "at most 2%", "step.py d1024"),
        ("tiny", "cpu", "-", "step.py tiny"),
    ):
        document = load(folder, f"step_{size}", device)
        name = {"7b": "LLaVA-1.5-7B dimensions, GPU", "d1024": "d=1024, CPU", "tiny": "d=128, CPU"}[size]
        if document is None:
            rows.append((f"training step, {name}: time and peak memory", goal, not_run(command)))
            continue
        (row,) = document["rows"]
        name += f", B={row['batch']}, L={row['length']}"
        memory = f"{100 * row['peak_overhead']:+.2f}%"
        rows.append(
            (
                f"training step, {name}: time and peak memory",
                goal,
                f"{100 * row['overhead']:+.2f}% of {row['ms']['without']:.0f} ms, {memory} "
                f"(the objective alone: {percent(row['objective_share'])})",
            )
        )
    return rows


def other_rows(
    objective: Document | None, growth: Document | None, startup: Document | None
) -> list[tuple[str, str, str]]:
    start = imported = not_run("startup.py")
    if startup:
        plain, package = startup["rows"][:2]
        start = f"{plain['computing']['difference_ms']:+.2f} ms"
        imported = f"{package['computing']['difference_ms']:.1f} ms"
    rows = [
        ("start-up of Python without the flag, installed less not installed", "at most 1 ms", start),
        ("`import llava_vista`", "-", imported),
    ]
    for row in objective["accuracy"] if objective else []:
        rows.append(
            (
                f"relative error against float64, bf16 inputs, {row['method']}",
                "the published arithmetic's",
                f"{row['ours']:.1e}; published {row['published']:.1e}, in a model that is bf16 throughout "
                f"{row['published_in_bfloat16']:.1e}; rounding to float32 alone {row['rounding']:.1e}",
            )
        )
    if growth:
        slopes = ", ".join(
            f"{axis} {values['frozen']:.2f}/{values['trained']:.2f}" for axis, values in growth["slopes"].items()
        )
        rows.append(("growth, log-log slope (frozen/trained)", "at most linear (1)", slopes))
    return rows


def table(folder: Path) -> str:
    """Return the table and its conditions as Markdown."""
    cpu = load(folder, "objective", "cpu")
    rows = [
        *objective_rows(cpu, load(folder, "objective", "cuda")),
        *step_rows(folder),
        *other_rows(cpu, load(folder, "growth", "cpu"), load(folder, "startup", "cpu")),
    ]
    lines = ["| measure | goal | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    if cpu:
        where = cpu["environment"]
        lines += [
            "",
            f"CPU: {where['device']}, {where['threads']} thread, torch {where['torch']}, {where['date'][:10]}. Times"
            " are of computing, so that other work on the machine does not count. Ranges are over the estimators;"
            " infonce has no published arithmetic." + (KEPT if cpu["options"]["memory"] == "kept" else ""),
        ]
    return "\n".join(lines) + "\n"


def draw_shapes(axes: Any, document: Document) -> None:
    """Draw the cost by shape, in clones, of ours and of the published arithmetic."""
    shapes = [shape for shape in dict.fromkeys(tuple(row["shape"]) for row in document["rows"])]
    for name, column, style in (("published", "published_times_clone", "--"), ("ours", "times_clone", "-")):
        for trained, colour in ((True, COLOURS["trained"]), (False, COLOURS["frozen"])):
            values = [
                pick(document, shape=list(shape), dtype="bfloat16", trained=trained, method="l2")[0][column]
                for shape in shapes
            ]
            label = f"{name}, {'trained' if trained else 'frozen'}"
            axes.plot(range(len(shapes)), values, style, marker="o", markersize=4, color=colour, label=label)
    axes.axhline(1, color=COLOURS["clone"], linestyle="--", linewidth=1)
    axes.set_xticks(range(len(shapes)), ["\n".join(map(str, shape)) for shape in shapes], fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(0.7, 300)
    axes.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes.minorticks_off()
    axes.set_xlabel("shape (B, L, d)")
    axes.set_ylabel("cost in clones of inputs_embeds")
    axes.set_title("against the published arithmetic")
    axes.legend(fontsize=8, ncols=2, loc="upper right")


def draw_growth(axes: Any, document: Document, axis: str, limits: tuple[float, float]) -> None:
    """Draw the time along one size, on the same scale in every panel."""
    points = pick(document, axis=axis)
    values = [point["value"] for point in points]
    for arm in ("trained", "frozen", "clone"):
        label = f"{'one clone' if arm == 'clone' else arm}: slope {document['slopes'][axis][arm]:.2f}"
        style = "--" if arm == "clone" else "-"
        times_ms = [point["ms"][arm] for point in points]
        axes.plot(values, times_ms, style, marker="o", markersize=4, color=COLOURS[arm], label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(limits)
    ticks = [base * 10**power for power in range(-3, 5) for base in (1, 2, 5)]
    ticks = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(LABELS[axis])
    axes.set_ylabel("ms")
    axes.set_title(f"growth with {axis}")
    axes.legend(fontsize=8, loc="upper left")


def draw(folder: Path, path: Path) -> None:
    """Draw the cost by shape, and the growth along each size."""
    with new_figure(13, 7.5) as figure:
        _fill(figure, load(folder, "objective", "cpu"), load(folder, "growth", "cpu"))
        save(figure, [path])


def _fill(figure: Any, objective: Document | None, growth: Document | None) -> None:
    grid = figure.subplots(2, 3)
    panels = iter(grid.flat)
    if objective:
        draw_shapes(next(panels), objective)
    if growth:
        values = [value for row in growth["rows"] for value in row["ms"].values()]
        limits = 0.8 * min(values), 4 * max(values)  # room for the legends
        for axis in growth["slopes"]:
            draw_growth(next(panels), growth, axis, limits)
    for axes in panels:
        axes.set_visible(False)
    figure.suptitle("VISTA objective, forward and backward, l2, bfloat16, one CPU thread")


def main(arguments: list[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files (default: %(default)s)")
    made.add_argument("--page", type=Path, default=PAGE, help="Markdown page with the table (default: %(default)s)")
    options = made.parse_args(arguments)
    text = table(options.results)
    before, rest = options.page.read_text().split(TABLE_BEGIN)
    options.page.write_text(f"{before}{TABLE_BEGIN}{text}{TABLE_END}{rest.split(TABLE_END, 1)[1]}")
    draw(options.results, options.results / "performance.png")
    print(text)


if __name__ == "__main__":
    main()
