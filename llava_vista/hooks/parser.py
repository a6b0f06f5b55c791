"""HfArgumentParser: VISTA's flags and keys are taken out before the host sees them; it gets the tuple it asked for."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..attach.patching import Replacement
from ..config import FLAG, FLAG_PREFIX, is_vista_key
from ..logging import warn_once
from .flags import GROUP, add_flags
from .request import REQUEST


def apply(module: ModuleType) -> Callable[[], None]:
    """Patch ``module.HfArgumentParser`` (transformers.hf_argparser); returns the undo function."""
    cls = module.HfArgumentParser
    original_init, original_dict = cls.__init__, cls.parse_dict
    original_known = cls.parse_known_args

    @functools.wraps(original_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        taken = [flag for flag in self._option_string_actions if is_vista_key(flag.lstrip("-"))]
        if not taken:
            add_flags(self)
        elif _is_native(self):
            # What it lacks (a patch of an older version) is accepted too; `Request.config` reads the command line.
            REQUEST.native = True
            self._vista_added = add_flags(self, without=taken)
        else:
            REQUEST.leave_command_line()
            warn_once(f"this program has flags of its own named {', '.join(taken)}; llava-vista leaves them to it.")

    @functools.wraps(original_known)
    def parse_known_args(self: Any, args: Any = None, namespace: Any = None, **kwargs: Any) -> Any:
        parsed, rest = original_known(self, args, namespace, **kwargs)
        if _ours(self):
            REQUEST.add_flags(_take(vars(parsed)))
        for key in getattr(self, "_vista_added", ()):
            vars(parsed).pop(key, None)
        return parsed, rest

    @functools.wraps(original_dict)
    def parse_dict(self: Any, args: dict[str, Any], *more: Any, **kwargs: Any) -> Any:
        if _ours(self):
            args = dict(args)
            REQUEST.add_flags(_take(args))
        return original_dict(self, args, *more, **kwargs)

    patches = [
        Replacement(cls, "__init__", __init__),
        Replacement(cls, "parse_known_args", parse_known_args),
        Replacement(cls, "parse_dict", parse_dict),
    ]

    def undo() -> None:
        for patch in reversed(patches):
            patch.undo()

    return undo


def _ours(parser: argparse.ArgumentParser) -> bool:
    """Whether the ``--vista`` flag of this parser is ours and not the program's."""
    return any(group.title == GROUP for group in parser._action_groups) and not hasattr(parser, "_vista_added")


def _is_native(parser: argparse.ArgumentParser) -> bool:
    """Whether the program itself has VISTA's flags, as the diffs of patches/ add them: a switch and a method.

    It then acts on them with `install`. Flags that only happen to be called so are another matter.
    """
    switch = parser._option_string_actions.get(f"--{FLAG}")
    return switch is not None and switch.const is True and f"--{FLAG_PREFIX}method" in parser._option_string_actions


def _take(values: dict[str, Any]) -> dict[str, Any]:
    """Remove VISTA's keys from ``values`` and return them."""
    return {key: values.pop(key) for key in [key for key in values if is_vista_key(key)]}
