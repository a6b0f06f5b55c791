"""``python -m llava_vista HOST_SCRIPT ARGS...``: run a training script with VISTA on, without the start-up hook.

Also ``deepspeed --module llava_vista HOST_SCRIPT ...`` and ``python -m llava_vista -m host.module ARGS...``.
"""

from __future__ import annotations

import os
import runpy
import sys

from .config import ENVIRONMENT_VARIABLE, VistaConfig, read_environment
from .errors import ConfigError
from .hooks import listen
from .hooks.request import REQUEST

USAGE = """usage: python -m llava_vista HOST_SCRIPT.py ARGS...
       python -m llava_vista -m HOST_MODULE ARGS...

Runs the host's own training script with VISTA on. --vista_<option> flags among ARGS set its options, and
--vista False switches it off. (llava-vista --help lists the other commands.)"""


def main() -> None:
    words = sys.argv[1:]
    starts = (at for at, word in enumerate(words) if not word.startswith("-") or (word == "-m" and words[at + 1 :]))
    start = next(starts, None)
    if start is None:
        raise SystemExit(USAGE)
    is_module = words[start] == "-m"
    # The DeepSpeed launcher puts its own --local_rank=N before the script: it goes on to the host.
    before, at = words[:start], start + 1 if is_module else start
    target, after = words[at], words[at + 1 :]
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
    listen()
    REQUEST.install(config, "python -m llava_vista")
    sys.argv = [target, *before, *after]
    if is_module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(target))
        runpy.run_path(target, run_name="__main__")


if __name__ == "__main__":
    main()
