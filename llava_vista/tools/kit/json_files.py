"""JSON files that may be missing, truncated or something else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard


class BadFile(Exception):
    """A file cannot be used. The message names it and the reason; a report shows it and goes on with the rest."""


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite(value: Any) -> TypeGuard[float]:
    return is_number(value) and math.isfinite(value)


def numbers_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that are numbers."""
    return {name: value for name, value in values.items() if is_number(value)}


def object_in(content: Any, *keys: str) -> dict[str, Any]:
    """Return a nested JSON object, {} where it is missing or something else."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadFile: missing, unreadable, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path} is not complete JSON ({error}): was the run or a copy of it cut off?") from error
    if not isinstance(content, dict):
        raise BadFile(f"{path} holds a JSON {type(content).__name__}; an object was expected.")
    return content


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of one JSON object per line.

    Raises:
        BadFile: unreadable, or a line is no JSON object; the first such line is named.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise BadFile(f"{path}, line {number} is no JSON object.")
                    yield record
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} cannot be read ({error}).") from error
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{path}, line {number} is not complete JSON ({error}): was it cut off?") from error


@cache
def package_data(package: str, name: str) -> dict[str, Any]:
    """Return the JSON object in a file of this package."""
    content: dict[str, Any] = json.loads(resources.files(package).joinpath(name).read_text(encoding="utf-8"))
    return content
