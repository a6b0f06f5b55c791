"""Acting on a module of the host right after it is imported, without importing it ourselves.

A finder at the front of ``sys.meta_path`` recognises the watched names, leaves finding and loading to the ordinary
finders, and calls the hook module's ``apply(module)`` when the module's code has run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: watched module -> the module of this package whose ``apply(module)`` handles it and returns an undo function
_watched: dict[str, str] = {}
_undo: dict[str, Callable[[], None]] = {}


def _apply(name: str, module: ModuleType) -> None:
    if name not in _undo:
        _undo[name] = importlib.import_module(_watched[name]).apply(module)


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self._searching: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _watched or fullname in self._searching:
            return None
        self._searching.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching.discard(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader = spec.loader
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            del loader.exec_module  # the instance attribute: the loader is again what it was
            if fullname in _watched:
                _apply(fullname, module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_finder = _Finder()


def watch(name: str, hook: str) -> None:
    """Call ``apply`` of module ``hook`` with module ``name``: now if it is imported already, else when it is."""
    _watched[name] = hook
    if name in sys.modules:
        _apply(name, sys.modules[name])
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def unwatch_all() -> None:
    """Undo every hook that was applied, and stop watching."""
    while _undo:
        _, undo = _undo.popitem()
        undo()
    _watched.clear()
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
