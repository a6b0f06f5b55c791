"""Packing of which no batch bears a sign: the arguments of the tool say so before the training begins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import AttachError


def refuse_unmarked_packing(arguments: Iterable[Any]) -> None:
    """Stop where the tool's own arguments ask for packing without position ids or lengths of the samples.

    Several samples are one to everybody then, the attention included, and each text would be aligned with the last
    image of the row.

    Args:
        arguments: the objects of the tool's parse.

    Raises:
        AttachError: names the option.
    """
    for made in arguments:
        if not getattr(made, "packing", None):
            continue
        name = type(made).__name__
        if getattr(made, "neat_packing", True) is False:  # LLaMA-Factory
            option, instead = "packing without neat_packing", "Add neat_packing: true"
        elif getattr(made, "packing_strategy", None) == "wrapped":  # TRL
            option, instead = "packing_strategy 'wrapped'", "Choose packing_strategy 'bfd'"
        else:
            continue
        raise AttachError(
            f"{name} asks for {option}: several samples become one row, and nothing in the batch says where each "
            f"begins, so VISTA cannot align a text with its own image. {instead}, or train without packing."
        )
