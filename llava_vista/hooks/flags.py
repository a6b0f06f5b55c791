"""The ``--vista...`` flags for any argparse parser, made from the fields of VistaConfig."""

from __future__ import annotations

import argparse
from collections.abc import Container

from ..config import FLAG, FLAG_PREFIX, OPTIONS, read_switch

#: Title of the group in the parser's help, and how our flags are told from a program's own.
GROUP = "VISTA"


def _switch(text: str) -> bool:
    try:
        return read_switch(text, "a switch")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_flags(parser: argparse.ArgumentParser, *, without: Container[str] = ()) -> list[str]:
    """Add the flags as a group. What is not given leaves no trace in the namespace (no defaults are set).

    Args:
        without: flags that are not added.

    Returns:
        the names of those that were added, as they stand in the namespace.
    """
    group = parser.add_argument_group(GROUP, "explicit vision-text alignment by llava-vista (arXiv 2505.10917)")
    if f"--{FLAG}" not in without:
        group.add_argument(
            f"--{FLAG}",
            type=_switch,
            nargs="?",
            const=True,
            default=argparse.SUPPRESS,
            help="train with cross-entropy + weight * L_VISTA (default: off)",
        )
    for option in OPTIONS.values():
        name = f"--{FLAG_PREFIX}{option.name}"
        if name in without:
            continue
        text = f"{option.metadata['help']} (default: {option.default})"
        if isinstance(option.default, bool):
            group.add_argument(name, type=_switch, nargs="?", const=True, default=argparse.SUPPRESS, help=text)
        else:
            group.add_argument(name, type=type(option.default), default=argparse.SUPPRESS, help=text)
    return [action.dest for action in group._group_actions]
