"""Pieces of the report that are tables: text in Markdown from groups of results."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from analysis import (
    BY_KEY,
    MEASURES,
    Difference,
    Measure,
    Result,
    corrected,
    difference,
    mean_and_interval,
    steps_to,
)
from settings import BASELINE, CHOICE_SEED, METHODS, PATHS, TITLES, Arm, Run, Sizes, World
from studies import STUDIES, WEIGHTS, Weights, choose, headline_arms
from study import DEFAULT_CHOICE_SEEDS, seeds_of

Results = Mapping[Run, Result]
Group = dict[str, list[Result]]
#: By measure and arm.
Compared = dict[str, dict[str, Difference]]


def number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}".replace("-0." + "0" * digits, "0." + "0" * digits)


def signed(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:+.{digits}f}"


def interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    return signed(mean, digits) + ("" if math.isnan(low) else f" [{signed(low, digits)}, {signed(high, digits)}]")


def span(d: Difference, digits: int = 3) -> str:
    """Mean difference, its interval, and p after correction."""
    p = "" if math.isnan(d.corrected) else f", p {d.corrected:.3f}" if d.corrected >= 0.001 else ", p < 0.001"
    return interval(d.mean, d.low, d.high, digits) + p


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def group(results: Results, runs: Sequence[Run]) -> Group:
    """Results by arm name, of the seeds that every arm has, in the order of seeds."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    seeds = sorted({run.seed for run in runs})
    by = {(run.arm, run.seed): results.get(run) for run in runs}
    whole = [seed for seed in seeds if all(by.get((arm, seed)) for arm in arms)]
    return {arm.name: [by[arm, seed] for seed in whole] for arm in arms} if whole else {}  # type: ignore[misc]


def by_method(found: Group) -> Group:
    return {name.split("-")[0]: results for name, results in found.items()}


def differences(measure: Measure, found: Group) -> dict[str, Difference]:
    """Each arm's from the baseline of its seeds."""
    arms = {name: list(zip(part, found[BASELINE], strict=True)) for name, part in found.items() if name != BASELINE}
    return _compared(measure, arms)


def _compared(measure: Measure, arms: Mapping[str, Sequence[tuple[Result, Result]]]) -> dict[str, Difference]:
    """Each arm's difference, from its pairs with the baseline; p is corrected for the number of arms."""
    sides = [[[measure.read(pair[side]) for pair in pairs] for side in (0, 1)] for pairs in arms.values()]
    return dict(zip(arms, corrected([difference(arm, base) for arm, base in sides]), strict=True))


def comparison(found: Group) -> list[str]:
    """Every measure: the arms' means, then the paired differences from the baseline."""
    names = list(found)
    means, rows = [], []
    for measure in MEASURES:
        direction = {1: " (more is better)", -1: " (less is better)", 0: ""}[measure.better]
        cells = [number(mean_and_interval([measure.read(r) for r in found[n]])[0], measure.digits) for n in names]
        means.append([measure.title + direction, *cells])
        rows.append([measure.title, *(span(d, measure.digits) for d in differences(measure, found).values())])
    return [
        *table(["mean over seeds", *names], means),
        "",
        *table(["difference from the baseline, 95% interval, corrected p", *names[1:]], rows),
    ]


def counted(part: Group) -> str:
    seeds = len(part[BASELINE])
    return f"{seeds} paired seed{'s' * (seeds > 1)}"


def per_seed(part: Group) -> list[str]:
    """The first measure of every run."""
    measure = MEASURES[0]
    seeds = [str(result["run"]["seed"]) for result in part[BASELINE]]
    rows = [[name, *(number(measure.read(result), measure.digits) for result in part[name])] for name in part]
    return table([f"{measure.title}, by seed", *seeds], rows)


def agreement(found: Mapping[str, Group]) -> list[str]:
    """The same differences on both paths."""
    fast, llava = found["fast"], found["llava"]
    seeds = min(len(fast[BASELINE]), len(llava[BASELINE]))
    rows, same, apart = [], 0, 0
    for key in ("color_nll", "color_accuracy", "information", "question_nll", "plain_nll", "text_nll"):
        measure = BY_KEY[key]
        both = [differences(measure, {n: part[n][:seeds] for n in part}) for part in (fast, llava)]
        for name in both[0]:
            if name not in both[1]:
                continue
            f, r = both[0][name], both[1][name]
            same += f.mean * r.mean > 0
            apart += f.mean * r.mean <= 0
            rows.append([measure.title, name, *(span(replace(d, corrected=math.nan), measure.digits) for d in (f, r))])
    points = [[MEASURES[0].read(result) for name in part for result in part[name][:seeds]] for part in (fast, llava)]
    return [
        f"{MEASURES[0].title} of the {len(points[0])} runs that both have done: correlation "
        f"{float(np.corrcoef(points)[0, 1]):.2f}, mean absolute difference "
        f"{float(np.abs(np.subtract(points[0], points[1])).mean()):.2f}.",
        "",
        f"Differences from the baseline on the same {seeds} seeds (the paths share data and starting weights, not the "
        f"order of samples): {same} of {same + apart} have the same sign.",
        "",
        *table(["measure", "arm", "fast path", "real LLaVA-1.5 pipeline"], rows),
    ]


def choice(results: Results, sizes: Sizes, weights: Weights, seeds: int) -> list[str]:
    read = BY_KEY["color_nll"].read
    runs = choose(seeds, sizes)
    rows = []
    for arm in dict.fromkeys(run.arm for run in runs):
        values = [read(results[run]) for run in runs if run.arm == arm]
        chosen = arm.method != BASELINE and weights[arm.method] == arm.weight
        rows.append([f"**{arm.name}**" if chosen else arm.name, *(number(v) for v in values),
                     number(sum(values) / len(values))])  # fmt: skip
    return [
        "Criterion: NLL of the colours in captions of prior-breaking *validation* scenes; the same grid "
        f"({', '.join(f'{weight:g}' for weight in WEIGHTS)}) and the same seeds for every estimator, "
        "and none of these seeds or scenes is reported on below. Chosen: bold.",
        *_caveats(weights, seeds),
        "",
        *table(["arm", *(f"seed {CHOICE_SEED + i}" for i in range(seeds)), "mean"], rows),
    ]


def _pairs(results: Results, runs: Iterable[Run]) -> list[tuple[Result, Result]]:
    """Each run's result with that of the baseline of the same data, where both are done."""
    both = ((run, replace(run, arm=Arm())) for run in runs)
    return [(results[run], results[base]) for run, base in both if run in results and base in results]


def _compared_table(compared: Compared) -> list[str]:
    measures = [BY_KEY[key] for key in compared]
    first = compared[measures[0].key]
    rows = [
        [name, str(d.seeds), number(d.baseline, measures[0].digits),
         *(span(compared[measure.key][name], measure.digits) for measure in measures)]
        for name, d in first.items()
    ]  # fmt: skip
    return table(["arm", "seeds", f"baseline's {measures[0].title}", *(measure.title for measure in measures)], rows)


def not_chosen(results: Results, weights: Weights, sizes: Sizes) -> list[str]:
    """Runs on test scenes of arms that no study has: an earlier choice, on fewer seeds, fell on their weight."""
    keys = ("color_nll", "color_accuracy", "text_nll")
    arms: dict[str, list[tuple[Result, Result]]] = {}
    for path in PATHS:
        by_arm: dict[Arm, list[Run]] = {}
        for run in results:
            plain = run.arm == Arm(run.arm.method, run.arm.weight)
            if plain and run.seed < CHOICE_SEED and run == Run(run.seed, run.arm, sizes=sizes, path=path):
                by_arm.setdefault(run.arm, []).append(run)
        for arm in sorted(by_arm.keys() - set(headline_arms(weights)), key=lambda arm: arm.name):
            if pairs := _pairs(results, by_arm[arm]):
                arms[f"{arm.name}, {TITLES[path]}"] = pairs
    if not arms:
        return []
    return [
        "Also run on test scenes, because the choice fell on them while it rested on fewer validation seeds; the study "
        "goes on with the choice above, and no conclusion uses them. Difference from the baseline, 95% interval, p "
        "corrected for the rows:",
        "",
        *_compared_table({key: _compared(BY_KEY[key], arms) for key in keys}),
        "",
    ]


def _caveats(weights: Weights, seeds: int) -> list[str]:
    """What makes the choice doubtful."""
    found = []
    if seeds < DEFAULT_CHOICE_SEEDS:
        found.append(f"The choice rests on {seeds} seed where {DEFAULT_CHOICE_SEEDS} were planned.")
    edge = [name for name, weight in weights.items() if weight in (min(WEIGHTS), max(WEIGHTS))]
    if edge:
        found.append(f"At the edge of the grid, so that a weight beyond it may be better: {', '.join(edge)}.")
    return found


def steps(found: Mapping[str, Group]) -> list[str]:
    """Steps of stage 2 to reach what the baseline's mean loss is after three quarters of it."""
    rows = []
    for path, part in found.items():
        curves = [result["log"]["finetune"]["ce"] for result in part[BASELINE]]
        at = max(5, 3 * len(curves[0]) // 4)
        level = sum(sum(curve[at - 5 : at]) / 5 for curve in curves) / len(curves)
        base = [steps_to(result, "finetune", level) for result in part[BASELINE]]
        for name, results in part.items():
            needed = [steps_to(result, "finetune", level) for result in results]
            reached = [n for n in needed if not math.isnan(n)]
            pairs = [n - b for n, b in zip(needed, base, strict=True) if not math.isnan(n - b)]
            rows.append([
                TITLES[path], name, number(level), f"{len(reached)} of {len(needed)}",
                number(sum(reached) / len(reached), 0) if reached else "-",
                "" if name == BASELINE else interval(*mean_and_interval(pairs), digits=0) if pairs else "-",
            ])  # fmt: skip
    return table(
        ["path", "arm", "cross-entropy", "seeds that reach it", "steps", "paired difference (where both do)"], rows
    )


def costs(found: Mapping[str, Group]) -> list[str]:
    """Wall clock, so only as good as the machine was idle; the median, because a run may have been paused."""
    rows = [
        [TITLES[path], *(number(median(result["train_seconds"] for result in part[n]), 0) for n in part)]
        for path, part in found.items()
    ]
    return table(["seconds of training, median (beside other work)", *next(iter(found.values()))], rows)


def lengths(results: Results, weights: Weights, sizes: Sizes, seeds: int) -> list[tuple[float, World, Group]]:
    """The worlds that differ in the length of captions, with whole pairs of seeds; shortest first."""
    worlds = dict.fromkeys([World(), *(run.world for run in STUDIES["length"](1, sizes, weights))])
    found = []
    for world in worlds:
        part = by_method(
            group(results, [Run(s, arm, world, sizes) for s in range(seeds) for arm in headline_arms(weights)])
        )
        if part:
            tokens = part[BASELINE][0]["measures"]["breaking"]["captions"]["tokens"]
            found.append((tokens, world, part))
    return sorted(found, key=lambda item: item[0])


def length_table(worlds: Sequence[tuple[float, World, Group]]) -> list[str]:
    rows = []
    for tokens, world, part in worlds:
        for key in ("color_nll", "color_accuracy", "information", "color_slope"):
            measure = BY_KEY[key]
            base = mean_and_interval([measure.read(result) for result in part[BASELINE]])[0]
            rows.append([
                f"{tokens:.0f} ({world.objects} objects, filler {world.filler})", str(len(part[BASELINE])),
                measure.title, number(base), *(span(d) for d in differences(measure, part).values()),
            ])  # fmt: skip
    return table(["tokens", "seeds", "measure", BASELINE, *METHODS], rows)


#: What sweeps are compared by.
SWEPT = ("color_nll", "color_accuracy", "information", "text_nll")


def sweeps(results: Results, weights: Weights, sizes: Sizes, args: argparse.Namespace) -> dict[str, Compared]:
    """Per sweep that has begun, every arm against the baseline of the same data."""
    found = {}
    for study in ("variants", "batch", "prior"):
        seeds = seeds_of(study, args)
        where = {"variants": "", "batch": ", batch {run.sizes.batch}", "prior": ", prior {run.world.prior:g}"}[study]
        arms = {}
        for run in dict.fromkeys(replace(run, seed=0) for run in STUDIES[study](seeds, sizes, weights)):
            pairs = _pairs(results, [replace(run, seed=seed) for seed in range(seeds)])
            if run.arm.method != BASELINE and pairs:
                arms[run.arm.name + where.format(run=run)] = pairs
        if arms:
            found[study] = {key: _compared(BY_KEY[key], arms) for key in SWEPT}
    return found


def sweep_tables(found: Mapping[str, Compared]) -> list[str]:
    lines: list[str] = []
    for study, compared in found.items():
        title = (
            f"## {study.capitalize()} (fast path): difference from the baseline, 95% interval, p corrected for the rows"
        )
        lines += [title, "", *_compared_table(compared), ""]
    return lines
