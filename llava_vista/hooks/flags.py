"""The ``--vista...`` flags for any argparse parser, made from the fields of VistaConfig."""

from __future__ import annotations

import argparse
from collections.abc import Container, Sequence
from typing import Any

from ..config import FLAG, FLAG_PREFIX, OPTIONS, vista_key

#: Title of the group in the parser's help, which also marks a parser that has our flags.
GROUP = "VISTA"


def add_flags(parser: argparse.ArgumentParser, *, without: Container[str] = ()) -> list[str]:
    """Add the flags as a group, with underscores and with hyphens. A flag that is not given leaves no trace.

    Values are taken as text: `config.read_flags` reads them, and its errors name the allowed ones.

    Args:
        without: names (``vista``, ``vista_<option>``) that are not added.

    Returns:
        the names of those that were added, as in the namespace.
    """
    group = parser.add_argument_group(GROUP, "explicit vision-text alignment by llava-vista (arXiv 2505.10917)")
    switches = {FLAG: "train with cross-entropy + weight * L_VISTA (default: off)"}
    options: dict[str, str] = {}
    for option in OPTIONS.values():
        texts = switches if isinstance(option.default, bool) else options
        texts[f"{FLAG_PREFIX}{option.name}"] = f"{option.metadata['help']} (default: {option.default})"
    for name, text in {**switches, **options}.items():
        if name in without:
            continue
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        if name in switches:
            group.add_argument(*spellings, nargs="?", const=True, default=argparse.SUPPRESS, help=text)
        else:
            group.add_argument(*spellings, default=argparse.SUPPRESS, help=text)
    return [action.dest for action in group._group_actions]


def has_our_flags(parser: argparse.ArgumentParser) -> bool:
    """Return whether `add_flags` has added flags to this parser."""
    return any(group.title == GROUP for group in parser._action_groups)


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """Return VISTA's flags among the words of a command line, as given."""
    flags: dict[str, Any] = {}
    for index, word in enumerate(words):
        key = vista_key(word) if word.startswith("--") else None
        if key is None:
            continue
        _, equals, value = word.partition("=")
        following = words[index + 1 : index + 2]
        if equals:
            flags[key] = value
        elif following and not following[0].startswith("--"):
            flags[key] = following[0]
        else:
            flags[key] = True
    return flags
