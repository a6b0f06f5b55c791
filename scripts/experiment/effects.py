"""Results of the study and what they say of an arm: paired ratios of steps, and readings at a run's turning points."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings import ARMS, BASELINE, STAYS

from llava_vista.tools.kit.statistics import holm, paired_t

Result = dict[str, Any]
#: Arm -> seed -> result, of one setting.
Arms = dict[str, dict[int, Result]]
#: A ratio of steps that the study is to see with a power of 80%, and what a paired t test needs for it (two-sided 5%).
TARGET, POWER_Z = 1.25, 1.960 + 0.842
#: Fewer paired seeds are reported without a verdict.
LEAST_SEEDS = 5
OUTCOMES = {"steps_to_1": "1.0 nats", "steps_to_0.3": "0.3 nats"}


@dataclass(frozen=True)
class Effect:
    """The paired ratio of steps of one arm to the baseline's; a run at the cap counts as the cap."""

    arm: str
    outcome: str
    seeds: int
    ratio: float
    low: float
    high: float
    spread: float  #: standard deviation of the log ratios
    p: float  #: corrected for all tests of the setting

    @property
    def verdict(self) -> str:
        if self.seeds < LEAST_SEEDS or self.p >= 0.05:
            return ""
        return "slower" if self.ratio > 1 else "faster"

    @property
    def smallest(self) -> float:
        """The ratio that so many seeds show with a power of 80%."""
        return math.exp(POWER_Z * self.spread / math.sqrt(self.seeds))

    def __str__(self) -> str:
        return f"{self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}]" + f" **{self.verdict}**" * bool(self.verdict)


def read(results: Path) -> dict[str, Arms]:
    """Return setting -> arm -> seed -> result.

    Raises:
        ValueError: arms of one seed started from different pre-trained parts, as two machines make them.
    """
    found: dict[str, Arms] = defaultdict(lambda: defaultdict(dict))
    bases: dict[tuple[str, int], str] = {}
    for path in sorted(results.glob("*/*.json")):
        result = json.loads(path.read_text())
        arm, _, seed = path.stem.rpartition("_seed")
        if bases.setdefault((result["setting"], int(seed)), result["base"]) != result["base"]:
            raise ValueError(f"arms of {result['setting']}, seed {seed}, started from different language models.")
        found[result["setting"]][arm][int(seed)] = result
    return found


def present(arms: Arms) -> list[str]:
    """Return the arms with results, the baseline first."""
    return [BASELINE, *(arm for arm in ARMS if arm != BASELINE and arms.get(arm))]


def published(arms: Arms) -> list[str]:
    """Return the arms with results whose term is one of the paper's."""
    return [arm for arm in present(arms) if ARMS[arm].method in ("l2", "cosine")]


def log_ratios(arms: Arms, arm: str, outcome: str) -> list[float]:
    """Return the log of the paired ratios of steps, over the seeds that both arms have."""
    plain, changed = arms[BASELINE], arms[arm]

    def steps(result: Result) -> int:
        return int(result[outcome] or result["cap"])

    return [math.log(steps(changed[seed]) / steps(plain[seed])) for seed in sorted(plain.keys() & changed.keys())]


def effects_of(arms: Arms) -> dict[tuple[str, str], Effect]:
    """Return every arm's effect on both outcomes, by (arm, outcome); p is Holm's over all of them."""
    found = {}
    for arm in present(arms)[1:]:
        for outcome in OUTCOMES:
            logs = log_ratios(arms, arm, outcome)
            if len(logs) > 1:
                found[arm, outcome] = logs, paired_t(logs)
    corrected = holm([test.p for _, test in found.values()])
    return {
        (arm, outcome): Effect(arm, outcome, len(logs), *map(math.exp, (test.mean, test.low, test.high)),
                               statistics.stdev(logs), p)
        for ((arm, outcome), (logs, test)), p in zip(found.items(), corrected, strict=True)
    }  # fmt: skip


def end_loss(result: Result) -> float:
    """Return a run's loss on the colours at its end: the mean of the readings that have to be below the floor."""
    return statistics.fmean(reading["color_nll"] for reading in result["readings"][-STAYS:])


def path(results: dict[int, Result], method: str, key: str) -> list[float]:
    """Return one reading, the mean over an arm's runs: at the start, after stage 1, when it looked, and at the end."""
    found = []
    for result in results.values():
        readings = result["readings"]
        looked = next((value for value in readings if value["step"] == result["steps_to_1"]), readings[-1])
        found.append(
            [at[method][key] for at in ((result["pretrain"] or readings)[0], readings[0], looked, readings[-1])]
        )
    return [statistics.fmean(values) for values in zip(*found, strict=True)]
