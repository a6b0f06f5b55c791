"""Trainings that VISTA would be wrong in, without a sign: they are refused by name before the first step.

Also ranks that do not all train with the same options.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch

from ..adapters import find_adapter
from ..config import ENVIRONMENT_VARIABLE, FLAG, FLAG_PREFIX, VistaConfig
from ..errors import AttachError, ConfigError, UnsupportedModelError
from ..logging import say

#: What VISTA would do beside a loss that is not the cross-entropy of the batch's own text -> TRL's trainers with such.
_REASONS = {
    "it would pull chosen and rejected answers alike towards the image": "DPO CPO ORPO OnlineDPO XPO NashMD",
    "it would pull wanted and unwanted answers alike towards the image": "KTO BCO",
    "it would pull every sampled answer towards the image, whatever its reward": "GRPO RLOO PPO GSPO",
    "its loss is about scores, not about the text": "Reward PRM",
    "its loss is a divergence from a teacher": "GKD",
}
#: Name of a trainer's class -> the reason.
OTHER_OBJECTIVES = {f"{name}Trainer": reason for reason, names in _REASONS.items() for name in names.split()}
#: How long a rank may take to answer. A rank on which VISTA is off never does: it knows nothing of this package.
TIMEOUT_SECONDS = 300
_rounds = 0


def refuse_what_cannot_be(trainer: Any, config: VistaConfig, source: str, arguments: Iterable[Any]) -> None:
    """Stop a training that VISTA cannot act on, before anything is set up.

    ``source`` says how VISTA was asked for, ``arguments`` are the objects that the host's parser made.

    Raises:
        VistaError: names the trainer, its set-up or its model, and what to do.
    """
    name, objective = type(trainer).__name__, other_objective(trainer)
    if trainer.args.n_gpu > 1:
        raise AttachError(
            f"this Trainer runs nn.DataParallel over {trainer.args.n_gpu} GPUs in one process, where VISTA cannot "
            "follow the replicas. Launch one process per GPU (deepspeed, torchrun, accelerate launch), or show it one "
            "GPU (CUDA_VISIBLE_DEVICES=0)."
        )
    if objective and config.weight > 0:
        reason = OTHER_OBJECTIVES[objective]
        if not config.any_objective:
            raise AttachError(
                f"{name} is a {objective}, and VISTA is defined beside cross-entropy: {reason}. Train without "
                f"{source}, or with --{FLAG_PREFIX}any_objective if that is wanted."
            )
        say(f"VISTA beside the objective of {objective}, as --{FLAG_PREFIX}any_objective asks: {reason}.")
    refuse_split_sequences(trainer)
    refuse_unmarked_packing([trainer.args, *arguments])
    if trainer.model is None:
        return
    try:
        find_adapter(trainer.model)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"{source} asks for VISTA, but {name}'s model cannot be trained with it: {error} For a training without "
            f"images leave it out ({ENVIRONMENT_VARIABLE}=0 or --{FLAG} False)."
        ) from error


def other_objective(trainer: Any) -> str:
    """Return the name of the class in `OTHER_OBJECTIVES` that a trainer is of, "" for none."""
    return next((cls.__name__ for cls in type(trainer).__mro__ if cls.__name__ in OTHER_OBJECTIVES), "")


def refuse_split_sequences(trainer: Any) -> None:
    """Stop before training when each rank's decoder would get only a part of every sequence.

    The last image position may then be on another rank than the text, and the term would be wrong without any sign.

    Raises:
        AttachError: names the setting.
    """
    accelerator = trainer.accelerator
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    deepspeed = getattr(plugin, "deepspeed_config", None) or {}
    parallelism = getattr(accelerator, "parallelism_config", None)
    for setting, size in (
        ("sequence_parallel_size of the DeepSpeed configuration", deepspeed.get("sequence_parallel_size")),
        ("sp_size of accelerate's ParallelismConfig", getattr(parallelism, "sp_size", None)),
        ("cp_size of accelerate's ParallelismConfig", getattr(parallelism, "cp_size", None)),
    ):
        if isinstance(size, int) and size > 1:
            raise AttachError(
                f"{setting} is {size}: that many ranks share one sequence, and each sees only a part of its "
                "embeddings, while VISTA needs the text and the last image position of a sample on one rank. Set it "
                "to 1 or leave it out, or train without VISTA."
            )


def refuse_unmarked_packing(arguments: Iterable[Any]) -> None:
    """Stop where a tool packs several samples into a row and marks nowhere where each begins.

    Attention and VISTA would treat them as one sample, and align each text with the last image of the row.

    Raises:
        AttachError: names the option.
    """
    for made in arguments:
        if not getattr(made, "packing", None):
            continue
        if getattr(made, "neat_packing", True) is False:  # LLaMA-Factory
            option, instead = "packing without neat_packing", "Set neat_packing: true"
        elif getattr(made, "packing_strategy", None) == "wrapped":  # TRL
            option, instead = "packing_strategy 'wrapped'", "Choose packing_strategy 'bfd'"
        else:
            continue
        raise AttachError(
            f"{type(made).__name__} asks for {option}: several samples become one row, and nothing in the batch says "
            f"where each begins, so VISTA cannot align a text with its own image. {instead}, or train without packing."
        )


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
