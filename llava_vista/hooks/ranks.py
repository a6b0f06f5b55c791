"""Before the first step: do all ranks train with the same options, and does each see whole sequences?"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import torch

from ..config import ENVIRONMENT_VARIABLE, FLAG, VistaConfig
from ..errors import AttachError, ConfigError

#: How long a rank may take to answer. A rank on which VISTA is off never does: it knows nothing of this package.
TIMEOUT_SECONDS = 300
#: Keys of a DeepSpeed configuration, and fields of accelerate's `ParallelismConfig`; 1 or absent is off.
DEEPSPEED_KEYS = ("sequence_parallel_size",)
ACCELERATE_FIELDS = ("sp_size", "cp_size")
_rounds = 0


def refuse_split_sequences(trainer: Any) -> None:
    """Stop before training when each rank's decoder would get only a part of every sequence.

    The last image position may then be on another rank than the text, and the term would be wrong without any sign.

    Raises:
        AttachError: names the setting.
    """
    accelerator = trainer.accelerator
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    deepspeed = getattr(plugin, "deepspeed_config", None) or {}
    found = {f"{key} of the DeepSpeed configuration": deepspeed.get(key) for key in DEEPSPEED_KEYS}
    parallelism = getattr(accelerator, "parallelism_config", None)
    found |= {f"{key} of accelerate's ParallelismConfig": getattr(parallelism, key, None) for key in ACCELERATE_FIELDS}
    for setting, size in found.items():
        if isinstance(size, int) and size > 1:
            raise AttachError(
                f"{setting} is {size}: that many ranks share one sequence, and each sees only a part of its "
                "embeddings, while VISTA needs the text and the last image position of a sample on one rank. Set it "
                "to 1 or leave it out, or train without VISTA."
            )


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
