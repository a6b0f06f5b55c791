"""An untrained projector of LLaVA's, for several trainings to start from."""

from __future__ import annotations

from pathlib import Path

import torch


def write_projector(path: Path, vision_hidden_size: int, hidden_size: int) -> None:
    """Write an untrained ``mlp2x_gelu`` projector for stage 1 to start from, drawn from torch's current generator.

    LLaVA makes its projector before its trainer sets ``--seed``, so two trainings would start from different ones.
    With this one (``--pretrain_mm_mlp_adapter``) they can be compared step by step.
    """
    sizes = (vision_hidden_size, hidden_size)
    layers = torch.nn.Sequential(torch.nn.Linear(*sizes), torch.nn.GELU(), torch.nn.Linear(hidden_size, hidden_size))
    torch.save({f"model.mm_projector.{name}": value for name, value in layers.state_dict().items()}, path)
