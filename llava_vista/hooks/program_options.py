"""argparse: notes a program with options of its own that have the names of VISTA's: its command line is its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..attach.patching import Replacement
from ..config import misspelt, vista_key
from ..logging import warn_once
from .flags import has_our_flags
from .request import REQUEST


def apply(module: ModuleType) -> Callable[[], None]:
    """Patch ``module.ArgumentParser`` (argparse); returns the undo function."""
    original = module.ArgumentParser.parse_known_args

    @functools.wraps(original)
    def parse_known_args(self: Any, *args: Any, **kwargs: Any) -> Any:
        if has_our_flags(self):  # HfArgumentParser: hooks/parser.py
            return original(self, *args, **kwargs)
        if any(vista_key(option) for option in self._option_string_actions):
            REQUEST.leave_words_to_the_program()
        parsed, rest = original(self, *args, **kwargs)
        message = misspelt(word for word in rest if word.startswith("--"))
        if message:
            warn_once(message)
        return parsed, rest

    return Replacement(module.ArgumentParser, "parse_known_args", parse_known_args).undo
