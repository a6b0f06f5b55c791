"""Process-wide hooks: what ``--vista`` and ``LLAVA_VISTA`` switch on (README.md). Each can be undone."""

from __future__ import annotations

from ..config import VistaConfig
from . import post_import
from .request import REQUEST

#: Module of the host -> the module of this folder that patches it.
HOOKS = {
    "argparse": "parser",
    "transformers.hf_argparser": "parser",
    "trl.scripts._hf_argparser": "parser",  # TRL's own copy
    "transformers.trainer": "trainer_session",
}


def install(config: VistaConfig | None = None) -> None:
    """Switch VISTA on for every `transformers.Trainer` of this process, as ``--vista`` does.

    ``--vista...`` flags that the host's parser reads still win, option by option; ``LLAVA_VISTA=0`` or ``--vista
    False`` switch it off. Call it before the parser and the trainer are used. Calling it again replaces the config.

    Args:
        config: the published defaults when None.
    """
    listen()
    REQUEST.install(config or VistaConfig(), "install()")


def listen() -> None:
    """Put the hooks in place without asking for VISTA: flags, configuration keys or the environment may do so."""
    for module, hook in HOOKS.items():
        post_import.watch(module, f"{__name__}.{hook}")
    REQUEST.listen()


def uninstall() -> None:
    """Undo every hook of this package: the host's classes are what they were before."""
    post_import.unwatch_all()
    REQUEST.reset()
