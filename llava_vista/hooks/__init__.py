"""Process-wide hooks: what ``--vista`` and ``LLAVA_VISTA`` switch on. Each can be undone.

startup          decides at interpreter start whether VISTA may be asked for, and calls `listen`
post_import      waits for the host's modules without importing them
parser           reads --vista... flags and configuration keys, and hides them from the host
program_options  notes programs whose own options have these names
request          the account of what was asked for, and of what acted on it
trainer          attaches to the model when training begins, adds the term to the loss, metrics to the log
"""

from __future__ import annotations

import atexit

from ..config import VistaConfig
from . import post_import
from .process_signs import tell_if_not_probed
from .request import REQUEST

#: Module of the host -> the module of this folder that patches it.
HOOKS = {
    "argparse": "program_options",
    "transformers.hf_argparser": "parser",
    "trl.scripts._hf_argparser": "parser",  # TRL's own copy
    "transformers.trainer": "trainer",
}


def install(config: VistaConfig | None = None) -> None:
    """Switch VISTA on for every `transformers.Trainer` of this process, as ``--vista`` does.

    ``--vista...`` flags that the host's parser reads still win, option by option; ``LLAVA_VISTA=0`` or ``--vista
    False`` switch it off. Call it before the parser and the trainer are used. Calling it again replaces the config.

    Args:
        config: the published defaults when None.
    """
    install_for(config or VistaConfig(), "install()")


def install_for(config: VistaConfig, source: str) -> None:
    """`install`, where messages name ``source`` as who asked."""
    listen()
    REQUEST.install(config, source)


def listen() -> None:
    """Put the hooks in place without asking for VISTA: flags, configuration keys or the environment may do so."""
    for module, hook in HOOKS.items():
        post_import.watch(module, f"{__name__}.{hook}")
    REQUEST.listen()
    atexit.unregister(tell_if_not_probed)
    atexit.register(tell_if_not_probed)


def uninstall() -> None:
    """Take every hook of this package off again: the host's classes are what they were before."""
    post_import.unwatch_all()
    REQUEST.reset()
    atexit.unregister(tell_if_not_probed)


__all__ = ["install", "install_for", "listen", "uninstall"]
