"""The ``--vista...`` flags for any argparse parser, made from the fields of VistaConfig."""

from __future__ import annotations

import argparse

from ..config import FLAG, FLAG_PREFIX, OPTIONS, read_switch


def _switch(text: str) -> bool:
    try:
        return read_switch(text, "a switch")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags as a group. What is not given leaves no trace in the namespace (no defaults are set)."""
    group = parser.add_argument_group("VISTA", "explicit vision-text alignment by llava-vista (arXiv 2505.10917)")
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
        text = f"{option.metadata['help']} (default: {option.default})"
        if isinstance(option.default, bool):
            group.add_argument(name, type=_switch, nargs="?", const=True, default=argparse.SUPPRESS, help=text)
        else:
            group.add_argument(name, type=type(option.default), default=argparse.SUPPRESS, help=text)
