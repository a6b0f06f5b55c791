"""RESULTS.md and its figures, from the JSONs alone.

python scripts/experiment/report.py [the options that study.py was run with]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import figures
from analysis import BY_KEY, Result, by_run, load
from conclude import LEVEL, conclusions
from settings import BASELINE, PATHS, TITLES, Sizes, World
from studies import ON_CPU, STUDIES, Weights, choose, chosen_weights
from study import DEFAULT_CHOICE_SEEDS, HERE, arguments, seeds_of, sizes_of
from tables import (
    Group,
    Results,
    agreement,
    by_method,
    choice,
    comparison,
    costs,
    counted,
    group,
    length_table,
    lengths,
    not_chosen,
    per_seed,
    steps,
    sweep_tables,
    sweeps,
    table,
)


def what_was_run(results: Results, sizes: Sizes, weights: Weights, args: argparse.Namespace) -> list[str]:
    rows = []
    options = "" if args.choice_seeds == DEFAULT_CHOICE_SEEDS else f" --choice-seeds {args.choice_seeds}"
    options += f" --finetune-steps {args.finetune_steps}" if args.finetune_steps else ""
    for study, make in STUDIES.items():
        runs = make(seeds_of(study, args), sizes, weights)
        done = [run for run in runs if run in results]
        whole = {run.seed for run in runs if all(r in results for r in runs if r.seed == run.seed)}
        state = f"{len(done)} of {len(runs)} runs, {len(whole)} whole seeds"
        first = (make.__doc__ or "").strip().split("\n")[0]
        command = f"`scripts/experiment/run.sh --studies {study}{options}{' --device cuda' * (study not in ON_CPU)}`"
        rows.append([study, first, state, "" if len(done) == len(runs) else command])
    return table(["study", "what", "done", "what runs the rest"], rows)


def not_planned() -> list[str]:
    return [
        "Of the question's full grid, no study here covers: combinations of options, the weight of each variant (all "
        "use the headline's), other temperatures of infonce, and sweeps on the real pipeline.",
    ]


def write(args: argparse.Namespace, output: Path) -> Path:
    """Write RESULTS.md and figures/ under ``output``."""
    sizes = sizes_of(args)
    results = by_run(load(args.results))
    weights = chosen_weights(args.results, args.choice_seeds, sizes)
    pictures = output / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    found: dict[str, Group] = {}
    for study, path in (("headline", "fast"), ("llava", "llava"), ("large", "large")):
        part = group(results, STUDIES[study](seeds_of(study, args), sizes, weights))
        if part:
            found[path] = part
    worlds = lengths(results, weights, sizes, seeds_of("headline", args))
    swept = sweeps(results, weights, sizes, args)
    lines = [
        "# Does VISTA help? A controlled experiment",
        "",
        "Written by `scripts/experiment/report.py` from the JSON files in `results/`.",
        "",
        *(["**A reduced run: it shows that the machinery works, and says nothing about VISTA.**", ""] * args.reduced),
        "## Conclusions",
        "",
        f"By rule: a difference is called one where its p value (paired t test over seeds, corrected for the number of "
        f"arms by Holm) is below {LEVEL:g}. Few seeds show large differences only: none shown is not none.",
        "",
        *conclusions(found, worlds, swept),
        "",
        "## What was run",
        "",
        *setting(sizes, results),
        "",
        *what_was_run(results, sizes, weights, args),
        "",
        *not_planned(),
        "",
        "## Choice of weights",
        "",
        *choice(results, sizes, weights, args.choice_seeds),
        "",
        *not_chosen(results, weights, sizes),
        "![criterion by weight](figures/weights.png)",
        "",
    ]
    chosen = {run: result for run, result in results.items() if run in set(choose(args.choice_seeds, sizes))}
    read = BY_KEY["color_nll"].read
    base = [read(result) for run, result in chosen.items() if run.arm.method == BASELINE]
    figures.by_weight(chosen, base, pictures / "weights.png")
    for path, part in found.items():
        lines += [f"## Headline on the {TITLES[path]}: {counted(part)}", ""]
        lines += [enlarged(sizes.enlarged(), part[BASELINE][0]), ""] if path == "large" else []
        lines += [*comparison(part), "", *per_seed(part), ""]
    if found:
        panels = {path: by_method(part) for path, part in found.items()}
        figures.by_position(panels, pictures / "position.png")
        figures.training(panels, pictures / "training.png")
        lines += [
            "## By position", "",
            f"Prior-breaking test scenes; mean over seeds. Bands: 95% over seeds, or their range where there are fewer "
            f"than {figures.ENOUGH}.", "",
            "![by position](figures/position.png)", "",
            "## Speed of learning, and cost", "",
            "Learning to look comes as a fall of this curve, tens of steps sooner or later by the seed, and runs that",
            "end soon after it are scored by when it fell: part of every difference above is one of speed.",
            "`--finetune-steps` trains on.", "",
            "![training](figures/training.png)", "",
            *steps(found), "",
            *costs(found), "",
        ]  # fmt: skip
    if found.keys() >= {*PATHS}:
        lines += ["## Do the two paths agree?", "", *agreement(found), ""]
    if len(worlds) > 1:
        figures.by_length([(tokens, part) for tokens, _, part in worlds], pictures / "length.png")
        lines += [
            "## By caption length (fast path)",
            "",
            "![by length](figures/length.png)",
            "",
            *length_table(worlds),
            "",
        ]
    lines += sweep_tables(swept)
    written = output / "RESULTS.md"
    written.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return written


def enlarged(sizes: Sizes, some: Result) -> str:
    """What is different in the headline with a larger model."""
    tokens = some["measures"]["breaking"]["captions"]["tokens"]
    return (
        f"Width {sizes.hidden}, {sizes.layers} layers; {sizes.image_size} pixels, {sizes.patches} patches; captions of "
        f"{tokens:.0f} tokens; rates {sizes.text_rate:g} (text alone), {sizes.pretrain_rate:g} and "
        f"{sizes.finetune_rate:g}, which go with 1 / width from the small model's and were not searched; the small "
        f"model's weights. On {some['device']}."
    )


def bases_of(results: Results, sizes: Sizes) -> int:
    """How many pre-trained pairs of language model and tower there are of these sizes and the usual prior.

    Each set-up has one.

    Raises:
        ValueError: arms that are to be compared started from different ones.
    """
    by_setup: dict[str, set[str]] = {}
    for run, result in results.items():
        by_setup.setdefault(run.setup_name, set()).add(result["base"])
    mixed = [name for name, bases in by_setup.items() if len(bases) > 1]
    if mixed:
        raise ValueError(
            f"the arms of {', '.join(mixed)} started from different language models (results of several machines?): "
            "delete these results and run them again on one machine."
        )
    usual = World().prior, sizes.base_name
    return len({result["base"] for run, result in results.items() if (run.world.prior, run.sizes.base_name) == usual})


def setting(sizes: Sizes, results: Results) -> list[str]:
    world, some = World(), next(iter(results.values()))
    versions = ", ".join(f"{name} {version}" for name, version in some["versions"].items())
    bases = bases_of(results, sizes)
    devices = sorted({result.get("device", "cpu") for run, result in results.items() if run.sizes == sizes})
    shared = "the same for all" if bases == 1 else f"made {bases} times, by the same recipe on other machines"
    return [
        f"Scenes of nine coloured shapes in a 3 by 3 grid, {sizes.image_size} pixels, {sizes.patches} patches; a "
        f"caption tells of {world.objects} of them (49 tokens), in an order that each seed draws. The language model "
        f"({sizes.layers} layers, width {sizes.hidden}) is first taught by text alone, {sizes.text_steps} steps: to "
        "look things up in notes, and that each of four shapes has a usual colour, one of six (prior "
        f"{world.prior:g}; a sentence names the shape before the colour). Then LLaVA-1.5's two "
        "stages with a frozen random-weight CLIP tower: "
        f"{sizes.pretrain_steps} steps of captions (projector only, rate {sizes.pretrain_rate:g}) and "
        f"{sizes.finetune_steps} of captions and questions (projector and language model, rate "
        f"{sizes.finetune_rate:g}), batch {sizes.batch}, every scene seen once; steps and rates were set for "
        f"cross-entropy alone, on two validation seeds. Scored on {sizes.scenes} held-out scenes in which no object "
        "has its usual colour (prior-breaking) and as many in which the prior holds as in training (plain).",
        "",
        "A seed decides scenes, order of telling, untrained projector and order of samples; language model and tower "
        f"are {shared}. Arms of a seed share all of it, and take the same steps. Device: "
        f"{', '.join(devices)}, one thread a run; {versions}. Visual information: log p with the image minus log "
        "p with it masked out of attention, nats. Blind guessing gets 0 of the prior-breaking colours when it follows "
        "the prior, a fifth when it guesses among the other colours; its NLL is 1.61 at best.",
    ]


def main(given: Sequence[str] | None = None) -> int:
    args = arguments(given)
    path = write(args, args.work if args.reduced else HERE)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
