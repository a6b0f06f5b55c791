"""Whether the code of a repository is here: looked for by its files, without importing anything of it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import ProbeError


def places(package: str) -> list[Path]:
    """The folders of a top-level package, as an import would find them; none when it is not importable."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module without a spec stands in its place
        return []
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]


def lacking(repository: str, package: str, holds: Sequence[str], lacks: Sequence[str] = ()) -> str | None:
    """Why the installed package is not the one of this repository; None when it is.

    Args:
        repository: for the message.
        holds: files below the package that it has to have.
        lacks: files that only other repositories with this package name have.
    """
    folders = places(package)
    if not folders:
        return f"the package `{package}` of {repository} is not importable"
    where = ", ".join(str(folder) for folder in folders)
    for name in holds:
        if not any((folder / name).is_file() for folder in folders):
            return f"the package `{package}` in {where} has no {name}, so it is not that of {repository}"
    for name in lacks:
        if any((folder / name).is_file() for folder in folders):
            return f"the package `{package}` in {where} has {name}, so it is not that of {repository}"
    return None


def load_module(name: str, repository: str) -> Any:
    """Import a module of a host.

    Raises:
        ProbeError: it cannot be imported in this environment.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, AttributeError, NameError, RuntimeError, TypeError, ValueError) as error:
        # what is raised while another version of transformers or of Python than the host's is at work
        raise ProbeError(
            f"{name} of {repository} cannot be imported here ({type(error).__name__}: {error}). Probe in the "
            "environment in which the checkpoint was trained."
        ) from error
