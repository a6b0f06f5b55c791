"""``python -m llava_vista HOST_SCRIPT ARGS...``: run a training script with VISTA on, without the start-up hook.

Also ``deepspeed --module llava_vista HOST_SCRIPT ...`` and ``python -m llava_vista -m host.module ARGS...``.
"""

from __future__ import annotations

import os
import runpy
import sys

from .config import ENVIRONMENT_VARIABLE, VistaConfig, read_environment
from .errors import ConfigError
from .hooks import install_for

USAGE = """usage: python -m llava_vista HOST_SCRIPT.py ARGS...
       python -m llava_vista -m HOST_MODULE ARGS...

Runs the host's own training script with VISTA on. --vista_<option> flags among ARGS set its options, and
--vista False switches it off. (llava-vista --help lists the other commands.)"""


def split(arguments: list[str]) -> tuple[list[str], bool, str, list[str]]:
    """Split a command line into (launcher's arguments, is module, script or module, its arguments).

    The DeepSpeed launcher puts its own ``--local_rank=N`` before the script: it goes on to the host.

    Raises:
        SystemExit: no script or module is named.
    """
    for index, word in enumerate(arguments):
        if word == "-m" and index + 1 < len(arguments):
            return arguments[:index], True, arguments[index + 1], arguments[index + 2 :]
        if not word.startswith("-"):
            return arguments[:index], False, word, arguments[index + 1 :]
    raise SystemExit(USAGE)


def main() -> None:
    before, is_module, target, after = split(sys.argv[1:])
    if not is_module and not os.path.exists(target):
        from . import cli

        if target in cli.COMMANDS:  # python -m llava_vista doctor
            raise SystemExit(cli.main(sys.argv[1:]))
        raise SystemExit(f"llava_vista: no such script: {target}\n\n{USAGE}")
    try:
        # The options of LLAVA_VISTA, which the defaults would beat; LLAVA_VISTA=0 still switches off.
        _, options = read_environment(os.environ.get(ENVIRONMENT_VARIABLE))
        config = VistaConfig(**options)
    except ConfigError as error:
        print(f"llava_vista: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    install_for(config, "python -m llava_vista")
    sys.argv = [target, *before, *after]
    if is_module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(target))
        runpy.run_path(target, run_name="__main__")


if __name__ == "__main__":
    main()
