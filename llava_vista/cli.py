"""The ``llava-vista`` command line.

A subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int`` that imports nothing heavy before
``run``; a line in `COMMANDS` makes it known.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from . import __version__
from .errors import VistaError

#: name -> (module of this package, one line of help)
COMMANDS = {
    "compare": ("tools.compare", "a baseline and one or more VISTA arms side by side: trainings, evaluations, seeds"),
    "demo": ("tools.demo", "train a tiny LLaVA with and without VISTA, and compare the two"),
    "doctor": (
        "tools.doctor",
        "check this environment, and a host's checkout or a checkpoint, without importing the host",
    ),
    "probe": (
        "tools.probe",
        "measure what checkpoints' text knows of the image, by position: curves, JSON and a figure",
    ),
    "reproduce": ("tools.reproduce", "the paper's trainings and evaluations, with the upstreams' own launch scripts"),
}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Add the defaults that the help does not state, and keep the example, an indented line, as it can be typed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_stated = "default" in (action.help or "") or action.default in (None, False, [])
        return action.help if is_stated else super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(line if line.startswith(" ") else fill(line, width, indent) for line in text.splitlines())


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser. Only the module of ``command`` is imported, so that one command cannot break another."""
    parser = argparse.ArgumentParser(
        prog="llava-vista", description="VISTA, explicit vision-text alignment, in LLaVA-family training."
    )
    parser.add_argument("--version", action="version", version=f"llava-vista {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module_name, text) in COMMANDS.items():
        description = f"{text[0].upper()}{text[1:]}."
        subparser = commands.add_parser(name, help=text, description=description, formatter_class=_HelpFormatter)
        if name == command:
            module = importlib.import_module(f".{module_name}", __package__)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The command's exit code; 2 when it ended with an error that is the user's to fix.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    # `probe ... -- COMMAND ARGS`: behind the dashes is a command line of the host's.
    end = words.index("--") if words[:1] == ["probe"] and "--" in words else len(words)
    try:
        command = next((word for word in words if not word.startswith("-")), None)
        args = build_parser(command).parse_args(words[:end], argparse.Namespace(command=words[end + 1 :]))
        code = int(args.run(args) or 0)
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "llava_vista":
            raise  # a defect of this package, not something to install
        message = f"{error.name} is not installed in this environment ({sys.prefix}); install it and try again."
    except BrokenPipeError:  # `| head` has read enough; Python's own flush at exit would complain again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what the shell reports of a process that SIGPIPE ended
    except (VistaError, OSError) as error:
        message = " ".join(str(error).split())
    except KeyboardInterrupt:
        return 130
    print(f"llava-vista: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
