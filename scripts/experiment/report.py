"""Fills RESULTS.template.md and draws its figures from the results of study.py: conclusions by rule.

python scripts/experiment/report.py [--results FOLDER] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effects import LEAST_SEEDS, OUTCOMES, POWER_Z, TARGET, Arms, effects_of, moments, present, read
from figures import draw
from settings import ARMS, BASELINE, SCENES
from study import EVERY, FLOOR, HERE, RESULTS, STAYS

from llava_vista.tools.kit.statistics import paired_t

#: A loss that falls by less has not been learned.
NO_FALL = 0.02


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def effects_table(arms: Arms) -> str:
    effects = effects_of(arms)
    rows = []
    for arm in present(arms)[1:]:
        cells = [effects.get((arm, outcome)) for outcome in OUTCOMES]
        if all(cells):
            capped = " and ".join(
                str(sum(result[outcome] is None for result in arms[arm].values())) for outcome in OUTCOMES
            )
            numbers = [text for cell in cells if cell for text in (str(cell), f"{cell.p:.2g}")]
            rows.append([arm, str(min(cell.seeds for cell in cells if cell)), *numbers, capped])
    heads = [text for title in OUTCOMES.values() for text in (f"steps until {title}, ratio to cross-entropy", "p")]
    return table(["arm", "paired seeds", *heads, "runs at the cap"], rows)


def method_of(arm: str) -> list[str]:
    """Return the published losses that are read for an arm: its own, or both."""
    own = ARMS[arm].method
    return [own] if own in ("l2", "cosine") else ["l2", "cosine"]


def reason_table(arms: Arms) -> str:
    """What the published losses do in each arm: their fall, what a constant S would give of it, margin, own first."""
    rows = []
    for arm in present(arms):
        for method in method_of(arm):
            runs = [moments(result, method) for result in arms[arm].values()]

            def mean(at: str, key: str, runs: Any = runs) -> float:
                return statistics.fmean(run[at][key] for run in runs)

            def path(key: str, form: str, mean: Any = mean) -> str:
                return " -> ".join(format(mean(at, key), form) for at in ("start", "stage 1", "looked", "end"))

            fall = mean("start", "loss") - mean("end", "loss")
            share = (mean("start", "loss") - mean("end", "constant")) / fall if fall > NO_FALL else None
            given = "no fall" if share is None else f"{share:.0%}"
            own, margin = path("own_first", ".2f"), path("margin", ".0e")
            rows.append([arm, method, str(len(runs)), path("loss", ".3f"), given, own, margin])
    head = ["arm", "read", "runs", "loss: start, after stage 1, when it looked, end", "a constant S gives",
            f"own text first (chance {1 / SCENES:.3f})", "margin"]  # fmt: skip
    return table(head, rows)


def own_first_gain(arms: Arms, arm: str, method: str) -> tuple[float, float, float] | None:
    """Return by how much more often than in the baseline the own text is first at the end, with its 95% interval."""
    seeds = sorted(arms[BASELINE].keys() & arms[arm].keys())
    if len(seeds) < LEAST_SEEDS:
        return None
    gains = [
        moments(arms[arm][seed], method)["end"]["own_first"] - moments(arms[BASELINE][seed], method)["end"]["own_first"]
        for seed in seeds
    ]
    test = paired_t(gains)
    return test.mean, test.low, test.high


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def conclusions(arms: Arms) -> list[str]:
    """Return three sentences: time to look, what is learned, and the weight to begin with. They follow by rule."""
    effects = effects_of(arms)
    tested = [effect for effect in effects.values() if effect.seeds >= LEAST_SEEDS]
    if not tested:
        return ["Too few paired seeds for a conclusion."]
    seeds = min(effect.seeds for effect in tested)
    told: dict[str, list[str]] = {"faster": [], "slower": []}
    for arm in present(arms)[1:]:
        marked = [effect for effect in tested if effect.arm == arm and effect.verdict]
        for effect in marked[:1]:
            told[effect.verdict].append(f"{arm} ({effect.ratio:.2f} times the steps)")
    rest = [effect.smallest for effect in tested if not effect.verdict]
    time = f"On a toy, over {seeds} paired seeds, "
    time += f"{listed(told['faster'])} began to use the image sooner" if told["faster"] else (
        "no arm began to use the image sooner than cross-entropy alone")  # fmt: skip
    time += f"; {listed(told['slower'])} began later" if told["slower"] else ""
    time += f"; between the others a ratio of {max(rest):.2f} would have been seen (power 80%)" if rest else ""
    published = [arm for arm in present(arms) if ARMS[arm].method in ("l2", "cosine")]
    gains = {arm: own_first_gain(arms, arm, ARMS[arm].method) for arm in published}
    about = [arm for arm, gain in gains.items() if gain and gain[1] > 0]
    reason = (
        f"What {listed(about)} learned is about the image: the own text is first more often than without the term"
        if about
        else "What the published losses (l2, cosine) lower is not about the image: "
        "the own text is first no more often than without the term"
    )
    weights = sorted({ARMS[arm].weight for arm in published})
    faster = [ARMS[effect.arm].weight for effect in tested if effect.arm in published and effect.verdict == "faster"]
    weight = f"Begin with `--vista_weight {min(faster) if faster else weights[0]:g}`"
    weight += ", which was faster" if faster else f", the lowest of {listed([f'{w:g}' for w in weights])}"
    return [f"{sentence}." for sentence in (time, reason, weight)]


def power(arms: Arms) -> str:
    """Say how many seeds the target takes: by the baseline's spread alone, and by that of the paired ratios."""
    logs = [math.log(result["steps_to_1"] or result["cap"]) for result in arms[BASELINE].values()]
    if len(logs) < 3:
        return "Too few seeds to say how many it takes."
    alone = statistics.stdev(logs)
    capped = sum(result["steps_to_0.3"] is None for result in arms[BASELINE].values())
    pairs = [effect.spread for effect in effects_of(arms).values() if ARMS[effect.arm].method != "infonce"]
    lines = [
        f"With cross-entropy alone {len(logs)} seeds fall below 1.0 nats at steps "
        f"{min(map(round, map(math.exp, logs)))} to {max(map(round, map(math.exp, logs)))} (log: standard deviation "
        f"{alone:.2f}); {capped} of them reach the cap before 0.3 nats.",
        f"Unpaired, a ratio of {TARGET} would take {_seeds(math.sqrt(2) * alone)} seeds (power 80%, two-sided 5%); "
        "pairing helps where arms of a seed begin to look together.",
    ]
    if pairs:
        lines.append(
            f"The paired log ratios of l2 and cosine have standard deviations of {min(pairs):.2f} to {max(pairs):.2f}: "
            f"{_seeds(min(pairs))} to {_seeds(max(pairs))} seeds."
        )
    return "\n".join(lines)


def _seeds(spread: float) -> int:
    return math.ceil((POWER_Z * spread / math.log(TARGET)) ** 2) + 2  # 2 for t instead of z


TITLES = {
    "tokens110": "Captions of 110 tokens instead of 49",
    "tokens272": "Captions of 272 tokens",
    "batch32": "Batches of 32 instead of 16",
    "llava": "Confirmed in LLaVA-1.5's own training script",
    "large": "About 100M parameters and 576 image tokens",
}


def report(results: Path, output: Path) -> str:
    """Write RESULTS.md and its figures; returns the text.

    Raises:
        ValueError: there are no results of the main setting.
    """
    found = read(results)
    arms = found.get("main", {})
    if not arms.get(BASELINE):
        raise ValueError(f"{results} has no results of the setting main with the arm {BASELINE}.")
    values = {
        "every": EVERY, "scenes": SCENES, "stays": STAYS, "floor": FLOOR,
        "cap": arms[BASELINE][min(arms[BASELINE])]["cap"],
        "conclusions": "\n".join(f"- {sentence}" for sentence in conclusions(arms)),
        "done": ", ".join(f"{arm} {len(arms[arm])}" for arm in present(arms)),
        "power": power(arms), "effects": effects_table(arms), "reason": reason_table(arms),
        "settings": "".join(
            f"## {title}\n\n{effects_table(found[name])}\n\n{reason_table(found[name])}\n\n"
            for name, title in TITLES.items() if found.get(name)
        ),
        "missing": "; ".join(title for name, title in TITLES.items() if not found.get(name)) or "nothing",
    }  # fmt: skip
    (output / "figures").mkdir(parents=True, exist_ok=True)
    text = (HERE / "RESULTS.template.md").read_text().format(**values)
    (output / "RESULTS.md").write_text(text)
    draw(arms, output / "figures")
    return text


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args(given)
    report(args.results, args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
