"""The account of requests: who asked for VISTA, for which training arguments, and whether anything acted on it.

README.md says which request counts.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import ENVIRONMENT_VARIABLE, FLAG, VistaConfig, misspelt, read_flags, resolve, vista_key
from ..errors import ConfigError
from ..logging import say, warn_once
from .process_signs import PROBE_VARIABLE, optimizer_was_made

#: Loaded in a process that starts the training in children, and reads the flags only to pass them on (`trl sft`).
LAUNCHERS = ("accelerate.commands.launch", "torch.distributed.run")
#: What a process hands to the processes that it starts.
INHERITED_VARIABLE = "LLAVA_VISTA_REQUEST"
#: Children that have used so much CPU time (seconds) may have trained; a compiler's or git's have not.
_CHILD_SECONDS = 1.0


@dataclass(eq=False)
class Parse:
    """What one parse of a host's arguments says of VISTA."""

    flags: dict[str, Any]  # ``vista`` and ``vista_<option>`` as given
    source: str
    asks: bool
    made: list[Callable[[], Any]]  # references to all objects that it made
    folders: set[str]  # output directories of the training arguments among them
    acted: bool = False  # a training or attach() made use of it


@dataclass(frozen=True)
class Settled:
    """What a training is to do: its configuration (None: VISTA off), and who asked.

    ``is_certain`` is False for words of the command line that no parser of the host was seen to read: they may mean
    something else to the program, and must not stop it.
    """

    config: VistaConfig | None
    source: str = f"--{FLAG}"
    is_certain: bool = True
    parse: Parse | None = None

    @property
    def arguments(self) -> list[Any]:
        """All argument objects of the same parse that are still in use."""
        found = [] if self.parse is None else [reference() for reference in self.parse.made]
        return [made for made in found if made is not None]


class Requests:
    """What parses, `install` and the environment ask for; `settle` says what holds for a training."""

    def __init__(self) -> None:
        self.installed: VistaConfig | None = None
        self._installed_by = ""
        #: the program has VISTA's flags itself (a diff of patches/) and acts on them with `install`
        self.is_native = False
        self._parses: list[Parse] = []
        self._command_line: Parse | None = None  # a parse that read this process's own words
        self._loose: Parse | None = None  # made no training arguments: it speaks for those that no parse made
        self._latest: Parse | None = None
        self._acted = self._words_are_others = False
        self._notes: set[str] = set()
        self._inherited: dict[str, Any] = {}
        #: as its options: a VistaConfig imports torch, and a child process may register its method only later
        self._parent_installed: dict[str, Any] | None = None
        self._parent_source = self._handed_down = ""

    # --- what is asked ---

    def listen(self) -> None:
        """Read what a parent process hands down, and warn at exit of what nothing acted on."""
        atexit.unregister(self.tell_at_exit)
        atexit.register(self.tell_at_exit)
        text = os.environ.get(INHERITED_VARIABLE)
        if text and text != self._handed_down:  # not what this process itself has set for its children
            handed = json.loads(text)
            self._inherited, self._parent_installed = handed["flags"], handed["installed"]
            self._parent_source, self._words_are_others = handed["source"], handed["words_are_others"]
        self._hand_down()

    def reset(self) -> None:
        """Forget everything."""
        atexit.unregister(self.tell_at_exit)
        os.environ.pop(INHERITED_VARIABLE, None)
        self.__init__()  # type: ignore[misc]

    def install(self, config: VistaConfig, by: str) -> None:
        """`install` was called. It replaces what a parse before it left for arguments that no parse made."""
        self.installed, self._installed_by = config, by
        self._loose = None
        self._hand_down()

    def parsed(self, flags: Mapping[str, Any], words: Sequence[str] | None, results: Iterable[Any]) -> None:
        """Note a parse of ``words`` (None: of a configuration) that found VISTA's ``flags`` and made ``results``.

        Raises:
            ConfigError: a bad value.
        """
        source = "a configuration" if words is None else f"--{FLAG}"
        if words is None and flags:
            source = f"the key {FLAG}" if FLAG in flags else "the keys " + ", ".join(flags)
        given = {**self._inherited, **flags}
        is_on = resolve(given, self._installed_or_inherited(), os.environ.get(ENVIRONMENT_VARIABLE)).config is not None
        results = list(results)
        training_arguments = getattr(sys.modules.get("transformers.training_args"), "TrainingArguments", ())
        trainings = [made for made in results if isinstance(made, training_arguments)]
        folders = {_folder_of(made) for made in trainings} - {""}
        parse = Parse(dict(flags), source, bool(flags) and is_on, [_reference(made) for made in results], folders)
        own = {word for word in sys.argv[1:] if vista_key(word)}
        if words is not None and own and own <= set(words):
            self._command_line = parse
        if not trainings:
            self._loose = parse
        self._parses.append(parse)
        self._latest = parse
        self._hand_down()

    def leave_words_to_the_program(self) -> None:
        """The program has flags of these names for something else: its command line is not read."""
        self._words_are_others = True
        self._hand_down()

    # --- what holds ---

    def settle(self, arguments: Any = None) -> Settled:
        """Return what holds for a training with these arguments; None stands for arguments that no parse made.

        Raises:
            ConfigError: what was asked for is not valid.
        """
        own, words = self._parse_of(arguments), self._unread_words()
        parse = own or self._command_line or self._loose
        flags = {**self._inherited, **(parse.flags if parse else {}), **words}
        environment = os.environ.get(ENVIRONMENT_VARIABLE)
        resolved = resolve(flags, self._installed_or_inherited(), environment)
        notes = list(resolved.notes)
        if self.is_native and self.installed is not None and resolved.config is not None:
            notes.append(
                f"this program reads --{FLAG} itself (a native patch), and llava-vista's start-up hook reads it too: "
                "VISTA is applied once."
            )
        for note in notes:
            if note not in self._notes:
                say(note)
        self._notes.update(notes)
        if resolved.config is None:
            is_of_no_parse = arguments is not None and own is None and not (parse and parse.flags)
            for asked in self._parses:
                if asked.asks and is_of_no_parse:
                    warn_once(
                        f"this training is without VISTA: {asked.source} asked for it with other training arguments "
                        "than this trainer's. Give the trainer the arguments that the parser made, or call "
                        "llava_vista.install()."
                    )
            return Settled(None)
        if words:
            source = f"--{FLAG} on the command line"
        elif parse is not None and parse.flags:
            source = parse.source
        elif self._inherited or (self._parent_installed and self.installed is None):
            source = self._parent_source
        elif self.installed is not None:
            source = self._installed_by
        else:
            source = f"{ENVIRONMENT_VARIABLE}={environment}"
        return Settled(resolved.config, source, is_certain=not words, parse=parse)

    def _installed_or_inherited(self) -> VistaConfig | None:
        if self.installed is None and self._parent_installed is not None:
            return VistaConfig(**self._parent_installed)
        return self.installed

    def config(self, arguments: Any = None) -> VistaConfig | None:
        """Return the configuration of `settle`."""
        return self.settle(arguments).config

    def _parse_of(self, arguments: Any) -> Parse | None:
        """Return the last parse that made these arguments, or a copy of them: one output directory is one run."""
        parses = self._parses[::-1] if arguments is not None else []
        made = (parse for parse in parses if any(reference() is arguments for reference in parse.made))
        copied = (parse for parse in parses if _folder_of(arguments) in parse.folders)
        return next(made, None) or next(copied, None)

    def _unread_words(self) -> dict[str, Any]:
        """Return VISTA's flags on this process's command line, where no HfArgumentParser has read them."""
        if self._command_line is not None or self._words_are_others:
            return {}
        flags = read_words(sys.argv[1:])
        try:
            read_flags({FLAG: flags.get(FLAG, True)})
        except ConfigError:
            warn_once(
                f"--{FLAG} {flags[FLAG]} on the command line was not read: it is neither true nor false, and may mean "
                f"something else to this program. For VISTA give --{FLAG} True, or set {ENVIRONMENT_VARIABLE}=1."
            )
            return {}
        if flags:
            warn_of_misspelt(sys.argv[1:])
        return flags

    # --- what became of it ---

    def act(self, settled: Settled | None = None) -> None:
        """A training begins with a request; None: the program itself attached VISTA to a model."""
        self._acted = True
        for parse in self._parses:  # a program may read one configuration by several parsers
            if settled is None or (settled.parse is not None and parse.flags == settled.parse.flags):
                parse.acted = True

    def end(self, settled: Settled) -> None:
        """A training has ended: later child processes do not inherit its request, but for the command line's."""
        if self._latest is settled.parse and self._latest is not self._command_line:
            self._latest = None
            self._hand_down()

    def _hand_down(self) -> None:
        """Set the environment variable from which a child process reads this process's request."""
        parse = self._latest if self._latest is not None and self._latest.flags else self._command_line
        flags = {**self._inherited, **(parse.flags if parse else {})}
        installed = self._parent_installed if self.installed is None else self.installed.to_dict()
        # Words that no parser has read yet go by the command line itself, which a spawned process has too.
        if not (flags or installed or self._words_are_others or read_words(sys.argv[1:])):
            os.environ.pop(INHERITED_VARIABLE, None)
            return
        asker = parse.source if parse is not None and parse.flags else self._installed_by
        handed = {
            "source": f"{asker} in the parent process" if asker else self._parent_source,
            "flags": flags,
            "installed": installed,
            "words_are_others": self._words_are_others,
        }
        self._handed_down = os.environ[INHERITED_VARIABLE] = json.dumps(handed)

    def tell_at_exit(self) -> None:
        """Warn of every request that nothing acted on, however it was made."""
        trained = optimizer_was_made()
        if trained and os.environ.get(PROBE_VARIABLE):  # after a measurement, no process gets here
            warn_once(
                f"{PROBE_VARIABLE} is set, but nothing was measured: this process trained without transformers.Trainer."
            )
        if getattr(sys, "last_value", None) is not None:
            return  # the program ended with an exception of its own
        if any(module in sys.modules for module in LAUNCHERS):
            return
        used = os.times()
        if not trained and used.children_user + used.children_system > _CHILD_SECONDS:
            return  # a training in child processes, which have the request and tell of it themselves
        idle = [parse.source for parse in self._parses if parse.asks and not parse.acted]
        if not self._acted and self.installed is not None:
            idle.append(self._installed_by)
        elif not self._acted and trained and not idle:
            try:
                settled = self.settle()
                if settled.config is not None:
                    idle.append(settled.source)
            except ConfigError as error:
                idle.append(f"words that cannot be read ({error})")
        for source in dict.fromkeys(idle):
            warn_once(
                f"VISTA was asked for by {source}, and nothing acted on it: no transformers.Trainer was trained with "
                "that request in this process, and attach() was not called. For a training loop of your own call "
                "llava_vista.attach(model) (README, own loop); an evaluation does not need it."
            )


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


def _reference(made: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(made)
    except TypeError:  # slots without __weakref__: kept alive
        return lambda: made


def _folder_of(arguments: Any) -> str:
    """Return the output directory of training arguments; "" where there is none."""
    folder = getattr(arguments, "output_dir", None)
    return "" if folder is None else os.path.abspath(str(folder))


REQUEST = Requests()
