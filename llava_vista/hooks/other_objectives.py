"""Trainers whose loss is not the cross-entropy of the batch's own text: VISTA acts there only by request."""

from __future__ import annotations

from typing import Any

from ..config import FLAG_PREFIX, VistaConfig
from ..errors import AttachError
from ..logging import say

#: Class of TRL -> what VISTA would do there.
OTHER_OBJECTIVES = {
    **dict.fromkeys(
        ("DPOTrainer", "CPOTrainer", "ORPOTrainer", "OnlineDPOTrainer", "XPOTrainer", "NashMDTrainer"),
        "it would pull chosen and rejected answers alike towards the image",
    ),
    **dict.fromkeys(("KTOTrainer", "BCOTrainer"), "it would pull wanted and unwanted answers alike towards the image"),
    **dict.fromkeys(
        ("GRPOTrainer", "RLOOTrainer", "PPOTrainer", "GSPOTrainer"),
        "it would pull every sampled answer towards the image, whatever its reward",
    ),
    **dict.fromkeys(("RewardTrainer", "PRMTrainer"), "its loss is about scores, not about the text"),
    **dict.fromkeys(("GKDTrainer",), "its loss is a divergence from a teacher"),
}
#: Logged in the place of ``ce_loss`` where the host's own loss is not a cross-entropy.
HOST_LOSS = "host_loss"


def other_objective(trainer: Any) -> str:
    """Return the name of the class in `OTHER_OBJECTIVES` that a trainer is of, "" for none."""
    return next((cls.__name__ for cls in type(trainer).__mro__ if cls.__name__ in OTHER_OBJECTIVES), "")


def refuse_other_objective(objective: str, config: VistaConfig, trainer: str, source: str) -> None:
    """Stop unless the objective is cross-entropy or ``any_objective`` is set.

    Raises:
        AttachError: names the trainer, the reason and the option.
    """
    if not objective:
        return
    reason = OTHER_OBJECTIVES[objective]
    if not config.any_objective:
        raise AttachError(
            f"{trainer} is a {objective}, and VISTA is defined beside cross-entropy: {reason}. Train without {source}, "
            f"or with --{FLAG_PREFIX}any_objective if that is wanted."
        )
    say(f"VISTA beside the objective of {objective}, as --{FLAG_PREFIX}any_objective asks: {reason}.")
