"""JSON files that may be missing, truncated or something else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class BadFile(Exception):
    """A file cannot be used. The message names it and says why; it ends up in the report, nothing stops."""


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadFile: missing, unreadable, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise BadFile(f"{path} is not complete JSON ({error}): was the run or a copy of it cut off?") from error
    if not isinstance(content, dict):
        raise BadFile(f"{path} holds a JSON {type(content).__name__}; an object was expected.")
    return content


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of one JSON object per line.

    Raises:
        BadFile: naming the first line that is none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise BadFile(f"{path}, line {number} is not complete JSON ({error}): was it cut off?") from error
                if not isinstance(record, dict):
                    raise BadFile(f"{path}, line {number} is no JSON object.")
                yield record
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} cannot be read ({error}).") from error
