"""HfArgumentParser: takes VISTA's flags and keys out, and the host gets the tuple that it asked for.

Of argparse's other parsers, it notes those whose own options have the names of VISTA's: that command line is their own.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from ..attach.patching import Replacement
from ..config import FLAG, FLAG_PREFIX, OPTIONS, misspelt, vista_key
from ..errors import ConfigError
from ..logging import warn_once
from .request import REQUEST, read_words, warn_of_misspelt

#: Title of the group in the parser's help, which also marks a parser that has our flags.
GROUP = "VISTA"


def apply(module: ModuleType) -> Callable[[], None]:
    """Patch ``ArgumentParser`` of argparse, or ``HfArgumentParser`` of ``module``; returns the undo function."""
    is_argparse = module.__name__ == "argparse"
    wrappers: dict[str, Callable[..., Any]] = {
        "__init__": _init,
        "parse_known_args": _parse_known_args,
        "parse_args_into_dataclasses": _parse_args_into_dataclasses,
        "parse_dict": _parse_dict,
    }
    if is_argparse:
        wrappers = {"parse_known_args": _parse_known_args_of_others}
    cls = module.ArgumentParser if is_argparse else module.HfArgumentParser
    undo = ExitStack()
    for name, wrapper in wrappers.items():
        wrapped = functools.partial(wrapper, getattr(cls, name))
        undo.callback(Replacement(cls, name, wrapped).undo)
    return undo.close


# Each wrapper gets the function in whose place it is, and the parser.


def _parse_known_args_of_others(original: Callable[..., Any], parser: Any, /, *args: Any, **kwargs: Any) -> Any:
    if has_our_flags(parser):  # HfArgumentParser
        return original(parser, *args, **kwargs)
    if any(vista_key(option) for option in parser._option_string_actions):
        REQUEST.leave_words_to_the_program()
    parsed, rest = original(parser, *args, **kwargs)
    warn_of_misspelt(rest)
    return parsed, rest


def _init(original: Callable[..., Any], parser: Any, /, *args: Any, **kwargs: Any) -> None:
    original(parser, *args, **kwargs)
    taken = {key for option in parser._option_string_actions if (key := vista_key(option))}
    if not taken:
        add_flags(parser)
    elif _is_native(parser):
        # What a patch of an older version lacks is accepted too.
        REQUEST.is_native = True
        parser._vista_added = add_flags(parser, without=taken)
    else:
        REQUEST.leave_words_to_the_program()
        listed = ", ".join(f"--{key}" for key in sorted(taken))
        warn_once(f"this program has flags of its own named {listed}; llava-vista leaves them to it.")


def _parse_known_args(original: Callable[..., Any], parser: Any, /, args: Any = None, *more: Any, **kwargs: Any) -> Any:
    parsed, rest = original(parser, args, *more, **kwargs)
    if not has_our_flags(parser):
        return parsed, rest
    if hasattr(parser, "_vista_added"):  # the program keeps its own
        flags = read_words(_words(args))
        for key in parser._vista_added:
            vars(parsed).pop(key, None)
    else:
        flags = _take(vars(parsed))
    reading = vars(parser).get("_vista_reading")
    if reading is not None:
        reading.flags, reading.rest = flags, rest
    else:
        with _stop_at_mistakes(parser, args):
            REQUEST.parsed(flags, _words(args), [parsed])
    return parsed, rest


def _parse_args_into_dataclasses(original: Callable[..., Any], parser: Any, /, *args: Any, **kwargs: Any) -> Any:
    if not has_our_flags(parser):
        return original(parser, *args, **kwargs)
    given = inspect.signature(original).bind(parser, *args, **kwargs).arguments.get("args")
    # What `parse_known_args` of this parser finds meanwhile.
    parser._vista_reading = reading = SimpleNamespace(flags={}, rest=[])
    with _stop_at_mistakes(parser, given):
        try:
            results = original(parser, *args, **kwargs)
        except ValueError as error:
            message = misspelt(word for word in reading.rest if word.startswith("--"))
            if message:
                raise ConfigError(message) from error
            raise
        finally:
            del parser._vista_reading
        warn_of_misspelt(reading.rest)
        REQUEST.parsed(reading.flags, _words(given), results)
    return results


def _parse_dict(original: Callable[..., Any], parser: Any, /, args: Any, *more: Any, **kwargs: Any) -> Any:
    if not has_our_flags(parser):
        return original(parser, args, *more, **kwargs)
    args = dict(args)
    native = hasattr(parser, "_vista_added")
    flags = {key: args[key] for key in args if vista_key(key)} if native else _take(args)
    fields = {field.name for cls in parser.dataclass_types for field in dataclasses.fields(cls)}
    message = misspelt(key for key in args if key not in fields)
    try:
        results = original(parser, args, *more, **kwargs)
    except ValueError as error:
        if message:
            raise ConfigError(message) from error
        raise
    if message:
        warn_once(message)
    REQUEST.parsed(flags, None, results)
    return results


def _words(args: Iterable[Any] | None) -> list[str]:
    """Return the command line that a parser was given; None stands for the process's own."""
    return sys.argv[1:] if args is None else [str(word) for word in args]


@contextmanager
def _stop_at_mistakes(parser: argparse.ArgumentParser, args: Any) -> Iterator[None]:
    """On the process's own command line, end as argparse ends, without its usage of several hundred lines."""
    try:
        yield
    except ConfigError as error:
        if args is not None:
            raise
        program = os.path.basename(parser.prog)
        print(f"{program}: error: {error}\n{program}: --help lists VISTA's flags.", file=sys.stderr)
        raise SystemExit(2) from None


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


def add_flags(parser: argparse.ArgumentParser, *, without: Container[str] = ()) -> list[str]:
    """Add the ``--vista...`` flags, but ``without``, with underscores and with hyphens; return their names.

    A flag that is not given leaves no trace. Values are taken as text, and read by `config.read_flags`.
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
