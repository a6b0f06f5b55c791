"""A named table of parts that third parties can extend with a decorator."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Generic, TypeVar

from .errors import RegistryError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to parts. A duplicate is an error; an unknown name is an error that lists the known ones.

    Args:
        kind: what the parts are, for messages ("estimator").
        builtin: module whose import registers the parts that ship with llava-vista. It is imported at the first
            look-up, so that a registry can be named (by ``config.py``) without importing torch.
    """

    def __init__(self, kind: str, builtin: str) -> None:
        self.kind = kind
        self._builtin = builtin
        self._parts: dict[str, T] = {}

    def add(self, name: str, part: T) -> None:
        """Register ``part`` under ``name``.

        Raises:
            RegistryError: the name is taken.
        """
        if name in self._parts:
            raise RegistryError(
                f"{self.kind} {name!r} is already registered ({self._parts[name]!r}); choose another name."
            )
        self._parts[name] = part

    def remove(self, name: str) -> None:
        """Take ``name`` out again (for tests and plugins that unload)."""
        self._parts.pop(self.check(name))

    def names(self) -> list[str]:
        """All known names, sorted."""
        importlib.import_module(self._builtin)
        return sorted(self._parts)

    def check(self, name: str) -> str:
        """Return ``name`` if it is known.

        Raises:
            RegistryError: unknown; the message lists the known names.
        """
        known = self.names()
        if name not in self._parts:
            raise RegistryError(f"unknown {self.kind} {name!r}; known: {', '.join(known)}.")
        return name

    def __getitem__(self, name: str) -> T:
        return self._parts[self.check(name)]

    def __iter__(self) -> Iterator[T]:
        return iter([self._parts[name] for name in self.names()])
