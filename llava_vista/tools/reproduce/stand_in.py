"""Stands in for ``deepspeed`` while an upstream's launch script runs, so that the script itself need not be edited.

The script calls ``deepspeed [launcher's options] some/train.py FLAGS``. This program, first on PATH under that name,
replaces the values of some flags, adds others, and then starts the real launcher, or only writes the command line down.
What it shall do stands in the JSON file that $LLAVA_VISTA_STAND_IN names. It imports nothing of llava-vista.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

VARIABLE = "LLAVA_VISTA_STAND_IN"


def split(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Launcher's options, the training script, its flags.

    Raises:
        ValueError: no word names a Python script.
    """
    for index, word in enumerate(words):
        if word.endswith(".py"):
            return list(words[:index]), word, list(words[index + 1 :])
    raise ValueError(f"no training script (*.py) in: deepspeed {' '.join(words)}")


def pairs(flags: Sequence[str]) -> list[list[str]]:
    """Each flag with what follows it; ``--flag=value`` is taken apart."""
    found: list[list[str]] = []
    for word in flags:
        if word.startswith("--"):
            found.append(word.split("=", 1) if "=" in word else [word])
        elif found:
            found[-1].append(word)
        else:
            raise ValueError(f"{word!r} stands before any flag")
    return found


def rewrite(words: Sequence[str], spec: Mapping[str, Any]) -> list[str]:
    """The command line to run. A flag that is set keeps its place; one that the script lacks goes to the end."""
    _, script, flags = split(words)
    left = dict(spec["set"])
    result: list[list[str]] = []
    for flag, *given in pairs(flags):
        if flag in left:
            result.append([flag, left.pop(flag)])
        elif flag not in spec["drop"] and flag not in spec["set"]:  # a second time would beat ours
            result.append([flag, *given])
    result += [[flag, value] for flag, value in left.items()]
    return [*spec["launcher"], script, *(word for pair in result for word in pair), *spec["add"]]


def main() -> None:
    with open(os.environ[VARIABLE], encoding="utf-8") as file:
        spec = json.load(file)
    words = sys.argv[1:]
    if spec["record"]:
        with open(spec["record"], "a", encoding="utf-8") as file:
            file.write(json.dumps(words) + "\n")
        return
    command = rewrite(words, spec)
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()
