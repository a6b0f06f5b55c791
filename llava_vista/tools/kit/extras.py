"""Import of optional dependencies, with an error that names the extra of pyproject.toml."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import MissingExtraError


@contextmanager
def requires_extra(extra: str) -> Iterator[None]:
    """Guard the imports of an extra's packages: ``with requires_extra("plots"): import matplotlib``.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed in this environment ({sys.prefix}). Install it with: "
            f"pip install 'llava-vista[{extra}]'"
        ) from error
