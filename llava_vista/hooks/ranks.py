"""Before the first step: do all ranks train with the same options?"""

from __future__ import annotations

import json
from datetime import timedelta

import torch

from ..config import ENVIRONMENT_VARIABLE, FLAG, VistaConfig
from ..errors import ConfigError

#: How long a rank may take to answer. A rank on which VISTA is off never does: it knows nothing of this package.
TIMEOUT_SECONDS = 300
_rounds = 0


def agree(config: VistaConfig) -> None:
    """Compare the options of all ranks through the process group's key-value store (no collective: none can hang).

    Raises:
        ConfigError: naming the options of each rank that differs, or the ranks without VISTA.
    """
    global _rounds
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    if world == 1:
        return
    _rounds += 1
    store = torch.distributed.distributed_c10d._get_default_store()
    key = f"llava_vista/{_rounds}/"
    store.set(f"{key}{rank}", json.dumps(config.to_dict(), sort_keys=True))
    answers: dict[int, str | None] = {}
    for other in range(world):
        # One deadline for all: once a rank has not answered, the others have had their time too.
        wait = TIMEOUT_SECONDS if None not in answers.values() else 1
        try:
            store.wait([f"{key}{other}"], timedelta(seconds=wait))
            answers[other] = store.get(f"{key}{other}").decode()
        except RuntimeError:  # torch.distributed.DistError (2.2 and later) is one, too
            answers[other] = None
    mine = answers[rank]
    if any(answer != mine for answer in answers.values()):
        listed = "; ".join(
            f"rank {other}: {answer or f'VISTA off (no answer within {TIMEOUT_SECONDS} s)'}"
            for other, answer in answers.items()
        )
        raise ConfigError(
            f"the ranks do not agree on VISTA: {listed}. Give --{FLAG} on the command line, which reaches every rank, "
            f"or set {ENVIRONMENT_VARIABLE} on every node (for the DeepSpeed launcher in .deepspeed_env)."
        )
