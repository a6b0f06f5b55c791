"""Writes LOOKING.md and its figure from the JSON files of looking.py: conclusions by rule, whichever way they fall.

python scripts/experiment/looking_report.py [--results FOLDER] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from looking import ARMS, EVERY, FLOOR, HERE, RESULTS, SCENES, SETTINGS

from llava_vista.tools.kit.statistics import holm, paired_t

Result = dict[str, Any]
#: A ratio of steps that the study is to see with a power of 80%, and what a paired t test needs for it (two-sided 5%).
TARGET, POWER_Z = 1.25, 1.960 + 0.842
#: Fewer paired seeds are reported without a verdict.
LEAST_SEEDS = 5
OUTCOMES = {"steps_to_1": "below 1.0 nats", "steps_to_0.3": "below 0.3 nats"}


class Effect(NamedTuple):
    """The paired ratio of steps of one arm to the baseline's."""

    arm: str
    seeds: int
    ratio: float
    low: float
    high: float
    p: float
    censored: int  # runs of either arm that reached the cap first

    def verdict(self, p: float) -> str:
        if self.seeds < LEAST_SEEDS:
            return "too few seeds"
        if p < 0.05:
            return "**slower**" if self.ratio > 1 else "**faster**"
        return f"no difference shown (between {self.low:.2f} and {self.high:.2f} times)"


def read(results: Path) -> dict[str, dict[str, dict[int, Result]]]:
    """Return setting -> arm -> seed -> result."""
    found: dict[str, dict[str, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(results.glob("*/*.json")):
        result = json.loads(path.read_text())
        arm, _, seed = path.stem.rpartition("_seed")
        found[result["setting"]][arm][int(seed)] = result
    return found


def steps(result: Result, outcome: str) -> int:
    """Return the step of an outcome; the cap where it was not reached."""
    return int(result[outcome] or result["cap"])


def effect(arms: dict[str, dict[int, Result]], arm: str, outcome: str) -> Effect | None:
    """Return the paired effect over the seeds that both arms have; None below two."""
    seeds = sorted(arms["baseline"].keys() & arms[arm].keys())
    if len(seeds) < 2:
        return None
    pairs = [(arms["baseline"][seed], arms[arm][seed]) for seed in seeds]
    logs = [math.log(steps(changed, outcome) / steps(plain, outcome)) for plain, changed in pairs]
    test = paired_t(logs)
    censored = sum(result[outcome] is None for pair in pairs for result in pair)
    return Effect(arm, len(seeds), math.exp(test.mean), math.exp(test.low), math.exp(test.high), test.p, censored)


def seeds_needed(arms: dict[str, dict[int, Result]], arm: str, outcome: str) -> int | None:
    """Return how many paired seeds show `TARGET` with a power of 80%, by the spread of the paired log ratios."""
    seeds = arms["baseline"].keys() & arms[arm].keys()
    if len(seeds) < 3:
        return None
    logs = [math.log(steps(arms[arm][seed], outcome) / steps(arms["baseline"][seed], outcome)) for seed in seeds]
    return math.ceil((POWER_Z * statistics.stdev(logs) / math.log(TARGET)) ** 2) + 2  # 2 for t instead of z


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def effects_table(arms: dict[str, dict[int, Result]]) -> list[str]:
    lines = []
    for outcome, title in OUTCOMES.items():
        effects = [found for arm in ARMS if arm in arms and arm != "baseline" and (found := effect(arms, arm, outcome))]
        corrected = holm([item.p for item in effects])
        rows = [
            [
                item.arm, str(item.seeds), f"{item.ratio:.2f} [{item.low:.2f}, {item.high:.2f}]", f"{p:.3g}",
                str(item.censored), str(seeds_needed(arms, item.arm, outcome) or ""), item.verdict(p),
            ]
            for item, p in zip(effects, corrected, strict=True)
        ]  # fmt: skip
        if rows:
            head = [f"steps until {title}", "seeds", "ratio to cross-entropy", "p (Holm)", "at the cap", "seeds that "
                    f"would show {TARGET}", "verdict"]  # fmt: skip
            lines += table(head, rows)
    return lines


def reason_table(arms: dict[str, dict[int, Result]]) -> list[str]:
    """What the published losses do in each arm: their fall, what a constant S would give of it, margin, own first."""
    rows = []
    for arm, results in arms.items():
        for method in ("l2", "cosine"):
            ends = [(run["readings"][0][method], run["readings"][-1][method]) for run in results.values()]

            def mean(at: int, key: str, ends: Any = ends) -> float:
                return statistics.fmean(pair[at][key] for pair in ends)

            fall = mean(0, "loss") - mean(1, "loss")
            possible = mean(0, "loss") - mean(1, "constant")
            rows.append([
                arm, method, str(len(ends)), f"{mean(0, 'loss'):.3f} -> {mean(1, 'loss'):.3f}", f"{fall:+.3f}",
                f"{possible:+.3f}", f"{mean(0, 'margin'):.1e} -> {mean(1, 'margin'):.1e}",
                f"{mean(0, 'own_first'):.3f} -> {mean(1, 'own_first'):.3f}",
            ])  # fmt: skip
    head = ["arm", "read", "seeds", "loss, begin -> end of stage 2", "fell by", "a constant S would give", "margin",
            f"own text first (chance {1 / SCENES:.3f})"]  # fmt: skip
    return table(head, rows)


def draw(arms: dict[str, dict[int, Result]], path: Path) -> None:
    """Steps to look with intervals, and the l2 margin against the l2 loss over training."""
    from llava_vista.tools.kit.plots import new_figure, save

    names = [arm for arm in ARMS if arm in arms and arm != "baseline"]
    with new_figure(9, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        for offset, (outcome, title) in enumerate(OUTCOMES.items()):
            found = [(row, item) for row, arm in enumerate(names) if (item := effect(arms, arm, outcome))]
            for row, item in found:
                left.plot([item.low, item.high], [row + 0.3 * offset] * 2, color=f"C{offset}")
            left.plot([item.ratio for _, item in found], [row + 0.3 * offset for row, _ in found], "os"[offset],
                      color=f"C{offset}", label=title)  # fmt: skip
        left.axvline(1, color="0.6", linewidth=0.8)
        left.set(xscale="log", xlabel="steps, ratio to cross-entropy alone (95% interval)")
        left.set_yticks(range(len(names)), names)
        left.legend()
        for index, arm in enumerate(arms):
            readings = arms[arm][min(arms[arm])]["readings"]
            right.plot([value["l2"]["loss"] for value in readings], [value["l2"]["margin"] for value in readings],
                       label=arm, color=f"C{index % 10}", marker=".", markersize=3, linewidth=0.8)  # fmt: skip
        right.set(xlabel="l2 VISTA loss on held-out scenes", ylabel="l2 margin: own text minus others'")
        right.legend(fontsize=6)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(figure, [path])


def report(results: Path, output: Path) -> list[str]:
    """Write LOOKING.md and the figure; returns the lines."""
    found = read(results)
    arms = found["main"]
    done = {arm: len(runs) for arm, runs in arms.items()}
    whole = min(done.get(arm, 0) for arm in ARMS)
    lines = [
        "# When does the model begin to look?",
        "",
        "Written by `looking_report.py` from `results/looking/`. World, models and stages are those "
        "of `RESULTS.md` (fast path), with a constant rate in stage 2.",
        f"Every {EVERY} steps the loss on the colours of {SCENES} held-out scenes is read in which no object has its "
        f"usual colour; a run ends when it has stayed below {FLOOR} nats, or at the cap.",
        "The outcome is the step at which it falls below 1.0 and 0.3 nats, as a paired ratio to cross-entropy alone "
        "(same seed: same scenes, starting weights, order).",
        "A verdict takes a corrected p below 0.05 (Holm over the arms of a table).",
        "",
        f"**Done: {whole} whole seeds of {len(ARMS)} arms** ({sum(done.values())} runs); the plan is 20. "
        "`python scripts/experiment/looking.py` goes on.",
        "",
        *effects_table(arms),
        "![Steps to look, and margin against loss](figures/looking.png)",
        "",
        "## What the published losses are about",
        "",
        "`loss`: the published loss on the held-out scenes. A constant S, the mean text centroid, knows nothing of any "
        "picture; what it would give of the fall is beside it.",
        "Margin: I(own text, S) minus the mean of I(other samples' texts, S).",
        "",
        *reason_table(arms),
    ]  # fmt: skip
    for setting in SETTINGS:
        if setting != "main" and found.get(setting):
            lines += [f"## Setting {setting}", "", *effects_table(found[setting])]
    output.mkdir(parents=True, exist_ok=True)
    (output / "LOOKING.md").write_text("\n".join(lines).rstrip() + "\n")
    draw(arms, output / "figures" / "looking.png")
    return lines


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args(given)
    report(args.results, args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
