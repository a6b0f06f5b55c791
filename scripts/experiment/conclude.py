"""What the headline and the lengths of captions say, by rule: the report's conclusions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import stdev

from analysis import BY_KEY, Difference, Measure, Result, mean_and_interval
from settings import BASELINE, METHODS, PATHS, TITLES, World
from tables import Compared, Group, counted, differences, interval, number, span, table

#: What the conclusions look at: does the model see better, and is anything harmed?
SEEING, HARM = ("color_nll", "color_accuracy", "information", "accuracy"), ("plain_nll", "text_nll")
LEVEL = 0.05


def verdict(measure: Measure, d: Difference) -> str:
    """better, worse or neither."""
    if math.isnan(d.corrected):
        return "untested"
    if d.corrected >= LEVEL:
        return "no difference shown"
    return "**better**" if d.mean * measure.better > 0 else "**worse**"


def fading(title: str, base: Sequence[Result]) -> str:
    """Whether alignment fades with position in the baseline, in a sentence."""
    told = []
    for key, what in (
        ("slope", "visual information of colour and shape words"),
        ("color_slope", "log p of the right colour"),
    ):
        mean, low, high = mean_and_interval([BY_KEY[key].read(result) for result in base])
        word = "is not told from flat" if math.isnan(low) or low <= 0 <= high else "falls" if mean < 0 else "rises"
        unit = "nats per 100 tokens" if key == "slope" else "nats per 10 objects"
        told.append(f"the {what} {word} with position ({interval(mean, low, high)} {unit})")
    seeds = counted({BASELINE: list(base)})
    return f"- **{title[0].upper()}{title[1:]}, {seeds}.** Under cross-entropy alone, {'; '.join(told)}."


def power(part: Group) -> str:
    """How large a difference the seeds could have shown."""
    measure = BY_KEY["color_nll"]
    base = [measure.read(result) for result in part[BASELINE]]
    spreads = {}
    for name, results in part.items():
        if name != BASELINE:
            deltas = [measure.read(a) - b for a, b in zip(results, base, strict=True)]
            spreads[name] = stdev(deltas)
    needed = {name: math.ceil(max(2.0, ((1.96 + 0.84) * spread / 0.2) ** 2)) for name, spread in spreads.items()}
    told = ", ".join(f"{name} {number(spreads[name], 2)} (about {needed[name]} seeds)" for name in spreads)
    return (
        f"What {len(base)} seeds could show: the baseline's own NLL of prior-breaking colours has a standard deviation "
        f"of {stdev(base):.2f} nats over seeds, and the paired differences have {told}; in brackets what showing 0.2 "
        "nats takes with a power of 80%."
    )


def recommended(found: Mapping[str, Group]) -> str | None:
    """The estimator with the lowest NLL among those better at it on every path that was run, and harmful on none."""
    good = []
    for name in next(iter(found.values())):
        if name == BASELINE or not found.keys() >= {*PATHS} or any(name not in part for part in found.values()):
            continue
        seen = [differences(BY_KEY["color_nll"], part)[name] for part in found.values()]
        harm = [verdict(BY_KEY[key], differences(BY_KEY[key], part)[name]) for key in HARM for part in found.values()]
        if all(verdict(BY_KEY["color_nll"], d) == "**better**" for d in seen) and "**worse**" not in harm:
            good.append((sum(d.mean for d in seen), name))
    return min(good)[1] if good else None


def with_length(worlds: Sequence[tuple[float, World, Group]]) -> list[str]:
    """What longer captions of the same objects change in the baseline, and how much else in each arm; by seed."""
    same = [(tokens, part) for tokens, world, part in worlds if world.objects == World().objects]
    if len(same) < 2:
        return []
    (short, before), (long, after) = same[0], same[-1]
    told, count = [], 0
    for measure in (BY_KEY["color_nll"], BY_KEY["information"]):
        changes = {}
        for name in (BASELINE, *METHODS):
            first, last = ({r["run"]["seed"]: measure.read(r) for r in part[name]} for part in (before, after))
            changes[name] = [last[seed] - first[seed] for seed in sorted(first.keys() & last.keys())]
        base = changes.pop(BASELINE)
        count = len(base)
        if not base:
            return []
        own = {name: [a - b for a, b in zip(values, base, strict=True)] for name, values in changes.items()}
        arms = ", ".join(f"{name} {interval(*mean_and_interval(values))}" for name, values in own.items())
        own_change = interval(*mean_and_interval(base))
        told.append(f"{measure.title}: {own_change} nats, and the arms' change less the baseline's: {arms}")
    return [
        f"- **Captions of {long:.0f} tokens instead of {short:.0f} that tell of the same objects (fast path, {count} "
        f"paired seed{'s' * (count > 1)}).** Change under cross-entropy alone: {'; '.join(told)}."
    ]


def swept(sweeps: Mapping[str, Compared]) -> list[str]:
    """What the sweeps show beyond seed noise; one line for all of them."""
    if not sweeps:
        return []
    shown = [
        f"{name}: {BY_KEY[key].title} {verdict(BY_KEY[key], d)} ({span(d, BY_KEY[key].digits)})"
        for compared in sweeps.values()
        for key, differences in compared.items()
        for name, d in differences.items()
        if d.corrected < LEVEL
    ]
    count = sum(len(compared["color_nll"]) for compared in sweeps.values())
    told = "; ".join(shown) or "No difference from the baseline is shown"
    names = ", ".join(sweeps)
    return [f"- **Sweeps ({names}; {count} arms on the fast path, p corrected within each sweep).** {told}."]


def conclusions(
    found: Mapping[str, Group], worlds: Sequence[tuple[float, World, Group]], sweeps: Mapping[str, Compared]
) -> list[str]:
    """What the headline, the lengths and the sweeps say, by rule."""
    lines = [fading(TITLES[path], part[BASELINE]) for path, part in found.items()]
    rows = []
    for path, part in found.items():
        for name in part:
            if name != BASELINE:
                words = [verdict(BY_KEY[key], differences(BY_KEY[key], part)[name]) for key in (*SEEING, *HARM)]
                rows.append([TITLES[path], name, *words])
    lines += [f"- {TITLES[path][0].upper()}{TITLES[path][1:]}. {power(part)}" for path, part in found.items()
              if len(part[BASELINE]) > 2]  # fmt: skip
    lines += [*with_length(worlds), *swept(sweeps)]
    best = recommended(found) if found else None
    told = (
        f"- **Recommended by these results: {best}.** It lowers the NLL of prior-breaking colours in every headline, "
        "and is worse neither at plain captions nor at text alone."
        if best
        else "- **These results recommend no estimator** over cross-entropy alone: that would take a lower NLL of "
        "prior-breaking colours in every headline, and nothing worse at plain captions or text alone."
    )
    return [*lines, told, "", *table(["path", "arm", *(BY_KEY[key].title for key in (*SEEING, *HARM))], rows)]
