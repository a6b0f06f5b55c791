"""What has been asked of VISTA in this process, and whether anybody acted on it."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from typing import Any

from ..config import ENVIRONMENT_VARIABLE, FLAG, VistaConfig, is_vista_key, resolve
from ..logging import say, warn_once
from .flags import add_flags

#: Loaded in a process that starts the training in children, and reads the flags only to pass them on (`trl sft`).
LAUNCHERS = ("accelerate.commands.launch", "torch.distributed.run")


class Request:
    """Collects what flags, configuration keys, `install` and the environment say; `config` settles it."""

    def __init__(self) -> None:
        self.installed: VistaConfig | None = None
        self.flags: dict[str, Any] = {}
        self.acted = False
        #: the program has VISTA's flags itself (a diff of patches/) and acts on them with `install`
        self.native = False
        self._parsed = False
        self._notes: set[str] = set()
        self._at_exit = False

    def reset(self) -> None:
        """Forget everything."""
        if self._at_exit:
            atexit.unregister(self._tell_if_nothing_happened)
        self.__init__()  # type: ignore[misc]

    def add_flags(self, flags: dict[str, Any]) -> None:
        """Flags or configuration keys that a host's parser came across. A bad value raises ConfigError here."""
        self._parsed = True
        self.flags.update(flags)
        if self.config() is not None and not self._at_exit:
            atexit.register(self._tell_if_nothing_happened)
            self._at_exit = True

    def leave_command_line(self) -> None:
        """The program's flags of that name mean something else: do not read them."""
        self._parsed = True

    def config(self) -> VistaConfig | None:
        """The configuration to train with, or None when VISTA is off.

        Raises:
            ConfigError: what was asked for is not valid.
        """
        if not self._parsed and any(is_vista_key(word.lstrip("-").split("=")[0]) for word in _flag_words()):
            # The host parses its command line by other means than HfArgumentParser: read our part of it ourselves.
            parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            add_flags(parser)
            self.flags.update(vars(parser.parse_known_args(_after_script())[0]))
            self._parsed = True
        resolved = resolve(self.flags, self.installed, os.environ.get(ENVIRONMENT_VARIABLE))
        notes = [*resolved.notes, *self._applied_once(resolved.config)]
        for note in notes:
            if note not in self._notes:
                self._notes.add(note)
                say(note)
        return resolved.config

    def _applied_once(self, config: VistaConfig | None) -> list[str]:
        """What to say when a natively patched program and llava-vista's own hooks both ask for VISTA."""
        if not self.native or self.installed is None or config is None:
            return []
        return [
            f"this program reads --{FLAG} itself (a native patch), and llava-vista's start-up hook reads it too: VISTA "
            "is applied once."
        ]

    def _tell_if_nothing_happened(self) -> None:
        failed = getattr(sys, "last_value", None) is not None  # the run ended with an exception of its own
        launched = any(module in sys.modules for module in LAUNCHERS)
        if not self.acted and not failed and not launched:
            warn_once(
                "VISTA was asked for, but no transformers.Trainer was trained in this process: nothing was done with "
                f"it. (An evaluation does not need --{FLAG}. For a training loop of your own call llava_vista.attach.)"
            )


def _after_script() -> list[str]:
    return sys.argv[1:]


def _flag_words() -> list[str]:
    return [word for word in _after_script() if word.startswith(f"--{FLAG}")]


REQUEST = Request()


def note_attached() -> None:
    """Note that the program itself attached VISTA to a model."""
    REQUEST.acted = True
