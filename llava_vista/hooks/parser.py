"""HfArgumentParser: takes VISTA's flags and keys out, and the host gets the tuple that it asked for."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NoReturn

from ..attach.patching import Replacement
from ..config import FLAG, FLAG_PREFIX, misspelt, vista_key
from ..errors import ConfigError
from ..logging import warn_once
from .flags import add_flags, has_our_flags, read_words
from .request import REQUEST


class _Reading:
    """What `parse_known_args` found while `parse_args_into_dataclasses` of the same parser runs."""

    flags: Mapping[str, Any] = {}
    rest: list[str] = []


def apply(module: ModuleType) -> Callable[[], None]:
    """Patch ``module.HfArgumentParser`` (transformers.hf_argparser); returns the undo function."""
    cls = module.HfArgumentParser
    init, known, into, from_dict = (
        cls.__init__,
        cls.parse_known_args,
        cls.parse_args_into_dataclasses,
        cls.parse_dict,
    )
    into_signature = inspect.signature(into)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        taken = {key for option in self._option_string_actions if (key := vista_key(option))}
        if not taken:
            add_flags(self)
        elif _is_native(self):
            # What a patch of an older version lacks is accepted too.
            REQUEST.is_native = True
            self._vista_added = add_flags(self, without=taken)
        else:
            REQUEST.leave_words_to_the_program()
            listed = ", ".join(f"--{key}" for key in sorted(taken))
            warn_once(f"this program has flags of its own named {listed}; llava-vista leaves them to it.")

    @functools.wraps(known)
    def parse_known_args(self: Any, args: Any = None, namespace: Any = None, **kwargs: Any) -> Any:
        parsed, rest = known(self, args, namespace, **kwargs)
        if not has_our_flags(self):
            return parsed, rest
        words = sys.argv[1:] if args is None else [str(word) for word in args]
        if hasattr(self, "_vista_added"):  # the program keeps its own
            flags = read_words(words)
            for key in self._vista_added:
                vars(parsed).pop(key, None)
        else:
            flags = _take(vars(parsed))
        reading = vars(self).get("_vista_reading")
        if reading is None:
            _note(self, flags, words, [parsed], from_command_line=args is None)
        else:
            reading.flags, reading.rest = flags, rest
        return parsed, rest

    @functools.wraps(into)
    def parse_args_into_dataclasses(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not has_our_flags(self):
            return into(self, *args, **kwargs)
        given = into_signature.bind(self, *args, **kwargs).arguments.get("args")
        self._vista_reading = reading = _Reading()
        try:
            results = into(self, *args, **kwargs)
        except ValueError:
            message = misspelt(word for word in reading.rest if word.startswith("--"))
            if message:
                _stop(self, ConfigError(message), from_command_line=given is None)
            raise
        finally:
            del self._vista_reading
        message = misspelt(word for word in reading.rest if word.startswith("--"))
        if message:
            warn_once(message)
        words = sys.argv[1:] if given is None else [str(word) for word in given]
        _note(self, reading.flags, words, results, from_command_line=given is None)
        return results

    @functools.wraps(from_dict)
    def parse_dict(self: Any, args: dict[str, Any], *more: Any, **kwargs: Any) -> Any:
        if not has_our_flags(self):
            return from_dict(self, args, *more, **kwargs)
        args = dict(args)
        native = hasattr(self, "_vista_added")
        flags = {key: args[key] for key in args if vista_key(key)} if native else _take(args)
        fields = {field.name for cls in self.dataclass_types for field in dataclasses.fields(cls)}
        message = misspelt(key for key in args if key not in fields)
        try:
            results = from_dict(self, args, *more, **kwargs)
        except ValueError as error:
            if message:
                raise ConfigError(message) from error
            raise
        if message:
            warn_once(message)
        REQUEST.parsed(flags, None, results)
        return results

    patches = [
        Replacement(cls, "__init__", __init__),
        Replacement(cls, "parse_known_args", parse_known_args),
        Replacement(cls, "parse_args_into_dataclasses", parse_args_into_dataclasses),
        Replacement(cls, "parse_dict", parse_dict),
    ]

    def undo() -> None:
        for patch in reversed(patches):
            patch.undo()

    return undo


def _note(
    parser: argparse.ArgumentParser, flags: Mapping[str, Any], words: list[str], results: Any, from_command_line: bool
) -> None:
    try:
        REQUEST.parsed(flags, words, results)
    except ConfigError as error:
        _stop(parser, error, from_command_line)


def _stop(parser: argparse.ArgumentParser, error: ConfigError, from_command_line: bool) -> NoReturn:
    """End as argparse ends for a mistake on the command line, without its usage of several hundred lines."""
    if not from_command_line:
        raise error
    program = os.path.basename(parser.prog)
    print(f"{program}: error: {error}\n{program}: --help lists VISTA's flags.", file=sys.stderr)
    raise SystemExit(2)


def _is_native(parser: argparse.ArgumentParser) -> bool:
    """Return whether the program itself has VISTA's flags, as the diffs of patches/ add them: a switch and a method.

    It then acts on them with `install`. Flags that only happen to be called so are another matter.
    """
    switch = parser._option_string_actions.get(f"--{FLAG}")
    return switch is not None and switch.const is True and f"--{FLAG_PREFIX}method" in parser._option_string_actions


def _take(values: dict[str, Any]) -> dict[str, Any]:
    """Remove VISTA's keys from ``values`` and return them, spelt with underscores."""
    taken = {word: key for word in values if (key := vista_key(word))}
    return {key: values.pop(word) for word, key in taken.items()}
