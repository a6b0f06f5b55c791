"""Types of command-line arguments, so that a value out of range is an error before anything is done."""

from __future__ import annotations

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """Read a number of 1 or more."""
    return _number(text, 1, None)


def seed(text: str) -> int:
    """Read a seed: torch takes larger ones and negative ones, numpy does not."""
    return _number(text, 0, 2**32 - 1)


def _number(text: str, low: int, high: int | None) -> int:
    if not text.isdecimal() or int(text) < low or (high is not None and int(text) > high):
        raise ArgumentTypeError(f"{text}: expected {low} {'or more' if high is None else f'to {high}'}")
    return int(text)
