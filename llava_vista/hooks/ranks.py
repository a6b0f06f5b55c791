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
    if torch.distributed.get_world_size() == 1:
        return
    _rounds += 1
    store = torch.distributed.distributed_c10d._get_default_store()
    keys = [f"llava_vista/{_rounds}/{rank}" for rank in range(torch.distributed.get_world_size())]
    store.set(keys[torch.distributed.get_rank()], json.dumps(config.to_dict(), sort_keys=True))
    answers: list[str | None] = []
    for key in keys:
        # One deadline for all: once a rank has not answered, the others have had their time too.
        wait = 1 if None in answers else TIMEOUT_SECONDS
        try:
            store.wait([key], timedelta(seconds=wait))
            answers.append(store.get(key).decode())
        except RuntimeError:  # torch.distributed.DistError (2.2 and later) is one, too
            answers.append(None)
    if len(set(answers)) > 1:
        silent = f"VISTA off (no answer within {TIMEOUT_SECONDS} s)"
        listed = "; ".join(f"rank {rank}: {answer or silent}" for rank, answer in enumerate(answers))
        raise ConfigError(
            f"the ranks do not agree on VISTA: {listed}. Give --{FLAG} on the command line, which reaches every rank, "
            f"or set {ENVIRONMENT_VARIABLE} on every node (for the DeepSpeed launcher in .deepspeed_env)."
        )
