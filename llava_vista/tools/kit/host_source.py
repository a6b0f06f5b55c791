"""The source of hosts (training repositories): found and parsed. Nothing here imports what it reads."""

from __future__ import annotations

import ast
import importlib.util
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: A folder with more Python files is no checkout of one host, but a home directory or a whole environment.
MAX_FILES = 5000
_SKIPPED = frozenset({"node_modules", "site-packages", "venv", "env", "build", "dist", "__pycache__"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Method(NamedTuple):
    """A method, read from its source."""

    path: Path
    line: int
    owner: str
    name: str
    signature: str
    parameters: tuple[str, ...]
    #: lengths of the tuples that it returns
    returns: tuple[int, ...]


def package_folders(name: str) -> list[Path]:
    """Return the folders of a top-level package as an import would find them; empty when there is none.

    A single-file module ``name.py`` gives its path without the suffix.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: sys.modules holds a module without a spec
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [Path(spec.origin).with_suffix("")] if spec.origin else []


def parse(path: Path) -> ast.Module | None:
    """Return the syntax tree of a file; None when it cannot be read or parsed by this Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the host's strings
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class SourceTree:
    """The Python files below a folder, without virtual environments, build folders and hidden folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: list[Path] = []
        self.truncated = False
        for folder, names, files in os.walk(root):
            names[:] = sorted(name for name in names if name not in _SKIPPED and not name.startswith("."))
            self.paths += [Path(folder, name) for name in sorted(files) if name.endswith(".py")]
            if len(self.paths) > MAX_FILES:
                self.truncated = True
                break

    def mentioning(self, words: Iterable[str]) -> Iterator[tuple[Path, ast.Module]]:
        """Yield the files whose text has one of ``words``, with their syntax trees."""
        needles = [word.encode() for word in words]
        for path in self.paths:
            try:
                text = path.read_bytes()
            except OSError:
                continue
            if any(needle in text for needle in needles) and (tree := parse(path)) is not None:
                yield path, tree


def find_class(folders: Iterable[Path], qualified: str) -> Path | None:
    """Return the file that defines class ``package.module.Class``; ``folders`` are those of ``package``."""
    module, _, name = qualified.rpartition(".")
    for folder in folders:
        stem = folder.joinpath(*module.split(".")[1:])
        for path in (stem.parent / f"{stem.name}.py", stem / "__init__.py"):
            if path.is_file() and (tree := parse(path)) and any(cls.name == name for cls in classes_in(tree)):
                return path
    return None


def classes_in(tree: ast.Module) -> list[ast.ClassDef]:
    """Return every class of a file, nested and conditional ones too."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def base_names(cls: ast.ClassDef) -> set[str]:
    """Return the last names of a class's bases: ``Trainer`` for ``transformers.Trainer``."""
    return {_last_name(base) for base in cls.bases}


def methods_in(path: Path, tree: ast.Module, names: Iterable[str]) -> list[Method]:
    """Return the methods with one of ``names``, of any class in the file."""
    wanted = set(names)
    return [
        _read_method(path, cls.name, node)
        for cls in classes_in(tree)
        for node in cls.body
        if isinstance(node, Function) and node.name in wanted
    ]


def defines_method(folder: Path, name: str) -> bool:
    """Return whether a class below the folder has a method with that name."""
    return bool(name) and any(methods_in(path, tree, [name]) for path, tree in SourceTree(folder).mentioning([name]))


def _read_method(path: Path, owner: str, node: Function) -> Method:
    arguments = node.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    returns = {
        len(inner.value.elts)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Tuple)
    }
    signature = f"({ast.unparse(arguments)})"
    return Method(path, node.lineno, owner, node.name, signature, tuple(names), tuple(sorted(returns)))


def calls(tree: ast.Module, name: str) -> list[int]:
    """Return the lines on which ``name(...)`` or ``module.name(...)`` is called."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and _last_name(node.func) == name]


def unbound_uses(tree: ast.Module, name: str) -> list[int]:
    """Return the lines that read ``name`` in a file that neither imports nor assigns it (a NameError at run time)."""
    uses: list[int] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and ((node.asname or node.name) == name or node.name == "*"):
            return []
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return []
        if isinstance(node, ast.Name) and node.id == name:
            if not isinstance(node.ctx, ast.Load):
                return []
            uses.append(node.lineno)
    return uses


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    return node.id if isinstance(node, ast.Name) else ""
