"""The source of hosts (training repositories): found, parsed, and its classes resolved. Nothing here is imported."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: A folder with more Python files is no checkout of one host, but a home directory or a whole environment.
MAX_FILES = 5000
_SKIPPED = frozenset({"node_modules", "site-packages", "venv", "env", "build", "dist", "__pycache__"})


def package_folders(name: str) -> list[Path]:
    """Return the folders of a top-level package as an import would find them; empty when there is none.

    A single-file module ``name.py`` gives its path without the suffix.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: sys.modules holds a module without a spec
        return []
    if spec is not None and spec.submodule_search_locations is not None:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [Path(spec.origin).with_suffix("")] if spec and spec.origin else []


class Method(NamedTuple):
    """A method, with the name of the class that defines it."""

    path: Path
    owner: str
    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def name(self) -> str:
        return f"{self.owner}.{self.node.name}"

    @property
    def parameters(self) -> list[str]:
        arguments = self.node.args
        return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]

    @property
    def returns(self) -> list[int]:
        """Lengths of the tuples that it returns."""
        values = [node.value for node in ast.walk(self.node) if isinstance(node, ast.Return)]
        return sorted({len(value.elts) for value in values if isinstance(value, ast.Tuple)})


class ClassSource(NamedTuple):
    """A class of a `SourceTree`. ``module`` is the dotted name of its file; a package's ends in ``.__init__``."""

    path: Path
    module: str
    node: ast.ClassDef

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def qualified(self) -> str:
        return f"{self.module.removesuffix('.__init__')}.{self.name}"

    def method(self, name: str) -> Method | None:
        """Return the method that the class itself defines under ``name``."""
        for node in self.node.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return Method(self.path, self.name, node)
        return None


class SourceTree:
    """The Python files of a checkout or package, without virtual environments, build folders and hidden folders.

    Modules are named as from the first folder at or above ``folder`` that is no package, or from its ``src``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = self.root = folder
        while (self.root / "__init__.py").is_file():
            self.root = self.root.parent
        self.texts: dict[Path, bytes] = {}
        self.truncated = False
        self._trees: dict[Path, ast.Module | None] = {}
        self._classes: dict[str, list[ClassSource]] = {}
        for place, names, files in os.walk(folder):
            names[:] = sorted(name for name in names if name not in _SKIPPED and not name.startswith("."))
            for name in sorted(files):
                if name.endswith(".py"):
                    with contextlib.suppress(OSError):  # a dangling link
                        self.texts[Path(place, name)] = Path(place, name).read_bytes()
            if len(self.texts) > MAX_FILES:
                self.truncated = True
                break

    def parse(self, path: Path) -> ast.Module | None:
        """Return the syntax tree of a file; None when this Python cannot parse it."""
        if path not in self._trees:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # invalid escapes in the host's strings
                    self._trees[path] = ast.parse(self.texts[path])
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                self._trees[path] = None
        return self._trees[path]

    def mentioning(self, words: Iterable[str]) -> Iterator[tuple[Path, ast.Module]]:
        """Yield the files whose text has one of ``words``, with their syntax trees."""
        needles = [word.encode() for word in words]
        for path, text in self.texts.items():
            if any(needle in text for needle in needles) and (tree := self.parse(path)) is not None:
                yield path, tree

    def module(self, path: Path) -> str:
        """Return a file's dotted name."""
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[1:] if parts[0] == "src" else parts)

    def package(self, path: Path) -> str:
        """Return a file's top-level package, or the file's own name outside of one."""
        return self.module(path).partition(".")[0]

    def place(self, path: Path, line: int) -> str:
        """Return "path:line", relative to the root."""
        return f"{path.relative_to(self.root)}:{line}"

    def classes_of(self, path: Path) -> list[ClassSource]:
        """Return every class of a file, nested and conditional ones too."""
        nodes = ast.walk(self.parse(path) or ast.Module([], []))
        return [ClassSource(path, self.module(path), node) for node in nodes if isinstance(node, ast.ClassDef)]

    def classes(self, name: str) -> list[ClassSource]:
        """Return the classes with that name, of any file."""
        if name not in self._classes:
            files = [path for path, text in self.texts.items() if b"class %b" % name.encode() in text]
            self._classes[name] = [cls for path in files for cls in self.classes_of(path) if cls.name == name]
        return self._classes[name]

    def lineage(self, cls: ClassSource) -> tuple[list[ClassSource], list[str]]:
        """Return the class and its ancestors of this tree in depth-first order, and the dotted names of other bases."""
        found: list[ClassSource] = []
        outside: list[str] = []
        pending: list[ClassSource | str] = [cls]
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                outside.append(item)
            elif item not in found:
                found.append(item)
                pending += [self.resolve(item.path, base) for base in reversed(item.node.bases)]
        return found, outside

    def resolve(self, path: Path, name: ast.expr) -> ClassSource | str:
        """Return the class that a name stands for in a file; its dotted name when it is not of this tree."""
        written = ast.unparse(name).partition("[")[0]
        head, dot, rest = written.partition(".")
        imported = self._imported(path).get(head)
        full = written if imported is None else f"{imported}{dot}{rest}"
        module, _, last = full.rpartition(".")
        options = self.classes(last)
        if imported is not None:  # from its own module, or from a package that passes it on
            options = [option for option in options if f".{module}." in f".{option.module}."]
        nearest = max(options, key=lambda option: len(os.path.commonpath([option.path, path])), default=None)
        return nearest or full

    def _imported(self, path: Path) -> dict[str, str]:
        """Return the dotted names of what a file imports, by the names that it uses."""
        names: dict[str, str] = {}
        for node in ast.walk(self.parse(path) or ast.Module([], [])):
            if isinstance(node, ast.ImportFrom):
                package = self.module(path).split(".")[: -node.level] if node.level else []
                source = ".".join([*package, *([node.module] if node.module else [])])
                names |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.asname: alias.name for alias in node.names if alias.asname}
                names |= {(top := alias.name.partition(".")[0]): top for alias in node.names if not alias.asname}
        return names


def last_name(node: ast.expr) -> str:
    """Return ``Trainer`` for ``transformers.Trainer``, and "" for what is no name."""
    return getattr(node, "attr", "") or getattr(node, "id", "")


def calls(tree: ast.Module, name: str) -> list[int]:
    """Return the lines on which ``name(...)`` or ``module.name(...)`` is called."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and last_name(node.func) == name]
