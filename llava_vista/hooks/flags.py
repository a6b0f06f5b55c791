"""The ``--vista...`` flags for any argparse parser, made from the fields of VistaConfig."""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterable, Sequence
from typing import Any

from ..config import FLAG, FLAG_PREFIX, OPTIONS, misspelt, vista_key
from ..logging import warn_once

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
    switch = {"nargs": "?", "const": True}
    flags: dict[str, tuple[str, dict[str, Any]]] = {}
    flags[FLAG] = ("train with cross-entropy + weight * L_VISTA (default: off)", switch)
    for option in sorted(OPTIONS.values(), key=lambda option: not isinstance(option.default, bool)):
        text = f"{option.metadata['help']} (default: {option.default})"
        flags[f"{FLAG_PREFIX}{option.name}"] = (text, switch if isinstance(option.default, bool) else {})
    for name, (text, more) in flags.items():
        if name not in without:
            spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
            group.add_argument(*spellings, default=argparse.SUPPRESS, help=text, **more)
    return [action.dest for action in group._group_actions]


def has_our_flags(parser: argparse.ArgumentParser) -> bool:
    """Return whether `add_flags` has added flags to this parser."""
    return any(group.title == GROUP for group in parser._action_groups)


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """Return VISTA's flags among the words of a command line, as given."""
    flags: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=False):
        key = vista_key(word) if word.startswith("--") else None
        if key is not None:
            value: str | bool
            _, equals, value = word.partition("=")
            if not equals:
                value = True if following.startswith("--") else following
            flags[key] = value
    return flags


def warn_of_misspelt(words: Iterable[str]) -> None:
    """Warn of the first flag that is unknown and resembles one of VISTA's."""
    message = misspelt(word for word in words if word.startswith("--"))
    if message:
        warn_once(message)
