"""Process-wide hooks: what ``--vista`` and ``LLAVA_VISTA`` switch on. Each can be undone.

    post_import  waits for transformers' modules without importing them
    parser       reads --vista... flags and configuration keys, and hides them from the host
    trainer      attaches to the model when training begins, adds the term to the loss, metrics to the log
    request      what has been asked for so far

At interpreter start, the start-up file calls `listen` when VISTA may be requested: by a ``--vista...`` flag, by the
environment variable, or because the program is a trainer with configuration files of its own. Otherwise nothing of this
package is imported.
"""

from __future__ import annotations

from ..config import VistaConfig
from . import post_import
from .request import REQUEST

#: Where HfArgumentParser is defined: transformers, and the copy that TRL 1.x brings for its command line.
PARSER_MODULES = ("transformers.hf_argparser", "trl.scripts._hf_argparser")


def install(config: VistaConfig | None = None) -> None:
    """Switch VISTA on for every `transformers.Trainer` of this process, as ``--vista`` does.

    ``--vista...`` flags that the host's parser reads still win, option by option; ``LLAVA_VISTA=0`` or ``--vista
    False`` switch it off. Call it before the parser and the trainer are used. Calling it again replaces the config.

    Args:
        config: the published defaults when None.
    """
    REQUEST.installed = config or VistaConfig()
    listen()


def listen() -> None:
    """Put the hooks in place without asking for VISTA: flags, configuration keys or the environment may do so."""
    for module in PARSER_MODULES:
        post_import.watch(module, "llava_vista.hooks.parser")
    post_import.watch("transformers.trainer", "llava_vista.hooks.trainer")


def uninstall() -> None:
    """Take every hook of this package off again: the host's classes are what they were before."""
    post_import.unwatch_all()
    REQUEST.reset()


__all__ = ["install", "listen", "uninstall"]
