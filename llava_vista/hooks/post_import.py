"""Acting on a module of the host right after it is imported, without importing it ourselves.

A finder at the front of ``sys.meta_path`` recognises the watched names, leaves finding and loading to the ordinary
finders, and calls the hook module's ``apply(module)`` when the module's code has run, also when it is reloaded.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: watched module -> the module of this package whose ``apply(module)`` handles it and returns an undo function
_watched: dict[str, str] = {}
_undo: list[Callable[[], None]] = []


def _apply(name: str, module: ModuleType) -> None:
    # A reload makes new classes, while subclasses of the old ones may live on: both stay patched.
    _undo.append(importlib.import_module(_watched[name]).apply(module))


class _Loader:
    """Takes the place of a module's loader until the module's code runs. The loader itself, which others may share, is
    not changed; what the import system finds on it (``exec_module``, or a ``load_module`` of old) it finds here.
    """

    def __init__(self, spec: ModuleSpec) -> None:
        self._spec, self._original = spec, spec.loader

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._original, name)
        return self._then_apply(value) if name in ("exec_module", "load_module") else value

    def _then_apply(self, load: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def load_and_apply(given: Any) -> Any:  # a module for exec_module, its name for load_module
            self._spec.loader = self._original
            if isinstance(given, ModuleType):
                given.__loader__ = self._original
            loaded = load(given)
            if self._spec.name in _watched:
                _apply(self._spec.name, given if isinstance(given, ModuleType) else loaded)
            return loaded

        return load_and_apply


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _watched:
            return None
        for finder in sys.meta_path:
            find = None if isinstance(finder, _Finder) else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(fullname, path, target) if find is not None else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec)  # type: ignore[assignment]
                return spec
        return None


_finder = _Finder()


def watch(name: str, hook: str) -> None:
    """Call ``apply`` of module ``hook`` with module ``name``: now if it is imported already, and when it is."""
    is_new = _watched.get(name) != hook
    _watched[name] = hook
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    if is_new and name in sys.modules:
        _apply(name, sys.modules[name])


def unwatch_all() -> None:
    """Undo every hook that was applied, and stop watching."""
    while _undo:
        _undo.pop()()
    _watched.clear()
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
