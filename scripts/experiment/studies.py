"""Which runs each study consists of. Arms of one seed share data, starting weights and steps; weights are chosen once.

The choice is made on validation scenes of seeds that no report uses, from the same grid for every estimator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from execute import result_path
from settings import BASELINE, CHOICE_SEED, METHODS, Arm, Run, Sizes, World

#: Two decades around what the paper uses for large models.
WEIGHTS = (0.01, 0.1, 1.0)
Weights = dict[str, float]


def choose(seeds: int, sizes: Sizes) -> list[Run]:
    """Every estimator at every weight of the grid, on seeds kept for this."""
    arms = [Arm(), *(Arm(method, weight) for weight in WEIGHTS for method in METHODS)]
    return [Run(CHOICE_SEED + seed, arm, sizes=sizes) for seed in range(seeds) for arm in arms]


def criterion(result: dict[str, Any]) -> float:
    """What the choice goes by: NLL of the colours in captions of prior-breaking validation scenes."""
    return float(result["measures"]["breaking"]["captions"]["color_nll"])


def chosen_weights(results: Path, seeds: int, sizes: Sizes) -> Weights:
    """Each estimator's weight with the lowest mean criterion.

    Raises:
        FileNotFoundError: a run of the choice is missing.
    """
    found: dict[tuple[str, float], list[float]] = {}
    for run in choose(seeds, sizes):
        result = json.loads(result_path(results, run).read_text())
        found.setdefault((run.arm.method, run.arm.weight), []).append(criterion(result))
    return {
        method: min(WEIGHTS, key=lambda weight, method=method: sum(found[method, weight]) / len(found[method, weight]))  # type: ignore[misc]
        for method in METHODS
    }


def headline_arms(weights: Weights) -> list[Arm]:
    return [Arm(), *(Arm(method, weights[method]) for method in METHODS)]


def _paired(seeds: int, runs: Iterable[Run]) -> list[Run]:
    """Seed by seed, so that a study that is stopped has whole pairs."""
    runs = list(runs)
    return [replace(run, seed=seed) for seed in range(seeds) for run in runs]


def headline(seeds: int, sizes: Sizes, weights: Weights) -> list[Run]:
    """The four arms on the fast path."""
    return _paired(seeds, (Run(0, arm, sizes=sizes) for arm in headline_arms(weights)))


def llava(seeds: int, sizes: Sizes, weights: Weights) -> list[Run]:
    """The four arms on the real LLaVA-1.5 pipeline."""
    return _paired(seeds, (Run(0, arm, sizes=sizes, path="llava") for arm in headline_arms(weights)))


def length(seeds: int, sizes: Sizes, weights: Weights) -> list[Run]:
    """Captions from about 20 to 300 tokens: fewer objects, or filler between the same ones."""
    worlds = (World(objects=3), World(filler=1), World(filler=2))
    return _paired(seeds, (Run(0, arm, world, sizes) for world in worlds for arm in headline_arms(weights)))


def variants(seeds: int, sizes: Sizes, weights: Weights) -> list[Run]:
    """Position weighting, text scope, detached text, and the stage in which the term acts; one at a time."""
    changes: tuple[dict[str, Any], ...] = (
        {"position_weighting": "uniform"},
        {"text_scope": "answer"},
        {"detach_text": True},
        {"stage": "pretrain"},
        {"stage": "finetune"},
    )
    arms = [replace(Arm(method, weights[method]), **change) for change in changes for method in METHODS]
    return _paired(seeds, (Run(0, arm, sizes=sizes) for arm in arms))


def batch(seeds: int, sizes: Sizes, weights: Weights) -> list[Run]:
    """Batch size, which for infonce is the number of candidates; arms are compared within a size, steps are equal."""
    return _paired(
        seeds,
        (Run(0, arm, sizes=replace(sizes, batch=size)) for size in (8, 32) for arm in headline_arms(weights)),
    )


def prior(seeds: int, sizes: Sizes, weights: Weights) -> list[Run]:
    """A weaker and a stronger language prior (each needs a language model of its own)."""
    worlds = (World(prior=0.5), World(prior=0.85))
    return _paired(seeds, (Run(0, arm, world, sizes) for world in worlds for arm in headline_arms(weights)))


def large(seeds: int, sizes: Sizes, weights: Weights) -> list[Run]:
    """The four arms in a model of about 100M parameters with 576 image tokens, on captions of about 270; for a GPU."""
    return _paired(seeds, (Run(0, arm, World(filler=2), sizes.enlarged()) for arm in headline_arms(weights)))


#: After the choice; in the order in which they are worth having.
STUDIES: dict[str, Callable[[int, Sizes, Weights], list[Run]]] = {
    "headline": headline,
    "llava": llava,
    "length": length,
    "variants": variants,
    "batch": batch,
    "prior": prior,
    "large": large,
}
#: What a CPU can do in hours.
ON_CPU = tuple(name for name in STUDIES if name != "large")
__all__ = ["BASELINE", "ON_CPU", "STUDIES", "WEIGHTS", "choose", "chosen_weights", "criterion", "headline_arms"]
