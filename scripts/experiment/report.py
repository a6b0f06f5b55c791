"""Fills RESULTS.template.md and draws its figures from the results of study.py: conclusions by rule.

python scripts/experiment/report.py [--results FOLDER] [--output FOLDER] [--reduced, --work FOLDER as study.py]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from effects import LEAST_SEEDS, OUTCOMES, POWER_Z, TARGET, Arms, effects_of, end_loss, path, present, published, read
from figures import draw
from settings import ARMS, BASELINE, EVERY, FLOOR, SCENES, SETTINGS, STAYS
from study import HERE, RESULTS

from llava_vista.tools.kit.statistics import paired_t

#: A loss that falls by less has not been learned.
NO_FALL = 0.02
STEPS_HEAD = [
    "arm", "paired seeds", *(text for nats in OUTCOMES.values() for text in (f"steps until {nats}, ratio to CE", "p")),
    "runs at the cap", "loss at the end",
]  # fmt: skip
REASON_HEAD = [
    "arm", "read", "runs", "loss: start, after stage 1, when it looked, end", "its fall: in stage 1, until it looked",
    "a constant S gives", f"own text first (chance {1 / SCENES:.3f})", "margin",
]  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def steps_rows(arms: Arms) -> list[list[str]]:
    effects, rows = effects_of(arms), []
    for arm in present(arms):
        found = [effects.get((arm, outcome)) for outcome in OUTCOMES]
        numbers = [text for cell in found for text in ((str(cell), f"{cell.p:.2g}") if cell else ("-", "-"))]
        capped = " and ".join(str(sum(run[outcome] is None for run in arms[arm].values())) for outcome in OUTCOMES)
        pairs = len(arms[arm].keys() & arms[BASELINE].keys())
        rows.append([arm, str(pairs), *numbers, capped, f"{statistics.fmean(map(end_loss, arms[arm].values())):.2f}"])
    return rows


def fall_of(loss: Sequence[float]) -> tuple[float, float] | None:
    """Return the shares of a loss's fall in stage 1, and until the run looked; None where it did not fall."""
    start, stage_1, looked, end = loss
    return None if start - end <= NO_FALL else ((start - stage_1) / (start - end), (start - looked) / (start - end))


def reason_rows(arms: Arms) -> list[list[str]]:
    """What the published losses do in each arm: their fall, what a constant S would give of it, margin, own first."""
    rows = []
    for arm in present(arms):
        own = ARMS[arm].method
        for method in [own] if own in ("l2", "cosine") else ["l2", "cosine"]:
            loss, constant = (path(arms[arm], method, key) for key in ("loss", "constant"))
            shares, given = fall_of(loss), "-"
            if shares:
                given = f"{(loss[0] - constant[-1]) / (loss[0] - loss[-1]):.0%}"
            rows.append([
                arm, method, str(len(arms[arm])), " -> ".join(f"{value:.3f}" for value in loss),
                ", ".join(f"{share:.0%}" for share in shares or ()) or "no fall", given,
                " -> ".join(f"{value:.2f}" for value in path(arms[arm], method, "own_first")),
                " -> ".join(f"{value:.0e}" for value in path(arms[arm], method, "margin")),
            ])  # fmt: skip
    return rows


def timing(arms: Arms) -> str:
    """Say when the published losses fall: in which stage, and before the run looks or after."""
    shares = [share for arm in published(arms) if (share := fall_of(path(arms[arm], ARMS[arm].method, "loss")))]
    if not shares:
        return "No published loss fell."
    (low_1, high_1), (low, high) = ((min(values), max(values)) for values in zip(*shares, strict=True))
    stage = "in stage 1" if low_1 > 0.5 else "in stage 2" if high_1 <= 0.5 else "in stage 1 or 2, by arm"
    order = "before" if low > 0.5 else "after" if high <= 0.5 else "before or after (by arm)"
    return (
        f"With l2 and cosine as the term, {low_1:.0%} to {high_1:.0%} of their fall comes in stage 1, and {low:.0%} to "
        f"{high:.0%}\nuntil the model looks (1.0 nats): most of it {stage}, and {order} the model looks."
    )


def is_about_the_image(arms: Arms, arm: str) -> bool:
    """Return whether the own text is first more often at the end than in the baseline (95% interval, paired)."""
    method, seeds = ARMS[arm].method, sorted(arms[BASELINE].keys() & arms[arm].keys())
    own, plain = ([arms[name][seed]["readings"][-1][method]["own_first"] for seed in seeds] for name in (arm, BASELINE))
    gains = [with_term - without for with_term, without in zip(own, plain, strict=True)]
    return len(seeds) >= LEAST_SEEDS and paired_t(gains).low > 0


def conclusions(arms: Arms) -> list[str]:
    """Return three sentences: time to look, what is learned, and the weight to begin with. They follow by rule."""
    tested = [effect for effect in effects_of(arms).values() if effect.seeds >= LEAST_SEEDS]
    if not tested:
        return ["Too few paired seeds for a conclusion."]
    told: dict[str, dict[str, str]] = {"faster": {}, "slower": {}}
    for effect in tested:
        if effect.verdict:
            told[effect.verdict].setdefault(
                effect.arm, f"{effect.arm} ({effect.ratio:.2f} times the steps to {OUTCOMES[effect.outcome]})"
            )
    time = f"On a toy, over {min(effect.seeds for effect in tested)} paired seeds, "
    time += (
        f"{listed([*told['faster'].values()])} began to use the image sooner"
        if told["faster"]
        else "no arm began to use the image sooner than cross-entropy alone"
    )
    time += f"; {listed([*told['slower'].values()])} began later" if told["slower"] else ""
    rest = [effect.smallest for effect in tested if not effect.verdict]
    time += f"; between the others a ratio of {max(rest):.2f} would have been seen (power 80%)" if rest else ""
    about = [arm for arm in published(arms) if is_about_the_image(arms, arm)]
    reason = (
        f"What {listed(about)} learned is about the image: the own text is first more often than without the term"
        if about
        else "What the published losses (l2, cosine) lower is not about the image: "
        "the own text is first no more often than without the term"
    )
    weights = sorted({ARMS[arm].weight for arm in published(arms)})
    faster = [ARMS[arm].weight for arm in published(arms) if arm in told["faster"]]
    weight = f"Begin with `--vista_weight {min(faster) if faster else weights[0]:g}`"
    weight += ", which was faster" if faster else f", the lowest of {listed([f'{w:g}' for w in weights])}"
    return [f"{sentence}." for sentence in (time, reason, weight)]


def power(arms: Arms) -> str:
    """Say how many seeds the target takes: by the baseline's spread alone, and by that of the paired ratios."""
    logs = [math.log(result["steps_to_1"] or result["cap"]) for result in arms[BASELINE].values()]
    if len(logs) < 3:
        return "Too few seeds to say how many it takes."

    def seeds(spread: float) -> int:
        return math.ceil((POWER_Z * spread / math.log(TARGET)) ** 2) + 2  # 2 for t instead of z

    alone = statistics.stdev(logs)
    capped = sum(result["steps_to_0.3"] is None for result in arms[BASELINE].values())
    pairs = [effect.spread for effect in effects_of(arms).values() if effect.arm in published(arms)]
    return (
        f"With cross-entropy alone {len(logs)} seeds fall below 1.0 nats at steps {math.exp(min(logs)):.0f} to "
        f"{math.exp(max(logs)):.0f} (log: standard deviation\n{alone:.2f}); {capped} of them reach the cap before 0.3 "
        f"nats. Unpaired, a ratio of {TARGET} would take {seeds(math.sqrt(2) * alone)} seeds (power 80%,\n"
        "two-sided 5%); pairing helps where arms of a seed begin to look together: "
        + (f"the paired log ratios of l2 and cosine have\nstandard deviations of {min(pairs):.2f} to {max(pairs):.2f}, "
           f"which takes {seeds(min(pairs))} to {seeds(max(pairs))} seeds." if pairs else "no pairs yet.")
    )  # fmt: skip


def side_settings(found: dict[str, Arms]) -> str:
    """Return the tables of the other settings that were run, one for the steps and one for the reason."""
    run = [name for name in SETTINGS if name != "main" and found.get(name)]
    told = "".join(f"- {name}: {SETTINGS[name].title}.\n" for name in run)
    steps, reasons = (
        table(["setting", *head], [[name, *row] for name in run for row in rows(found[name])])
        for head, rows in ((STEPS_HEAD, steps_rows), (REASON_HEAD, reason_rows))
    )
    return f"## Other settings\n\n{told}\n{steps}\n\n{reasons}\n\n" if run else ""


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
        "done": ", ".join(f"{arm} {len(arms[arm])}" for arm in present(arms)), "power": power(arms),
        "effects": table(STEPS_HEAD, steps_rows(arms)), "reason": table(REASON_HEAD, reason_rows(arms)),
        "timing": timing(arms), "settings": side_settings(found),
        "missing": "; ".join(setting.title for name, setting in SETTINGS.items() if not found.get(name)) or "nothing",
    }  # fmt: skip
    (output / "figures").mkdir(parents=True, exist_ok=True)
    text = (HERE / "RESULTS.template.md").read_text().format(**values)
    (output / "RESULTS.md").write_text(text)
    draw(arms, output / "figures")
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduced", action="store_true", help="of a reduced study")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="of the study")
    parser.add_argument("--results", type=Path, help="(default: where study.py writes them)")
    parser.add_argument(
        "--output", type=Path, help="(default: beside this file; of a reduced study, in its work folder)"
    )
    given, _ = parser.parse_known_args()  # run.sh hands on what study.py takes
    report(
        given.results or (given.work / "results-reduced" if given.reduced else RESULTS),
        given.output or (given.work / "reduced" if given.reduced else HERE),
    )
