"""Classes, their ancestors and what files import, read from source; compared with what Python itself makes of it."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from host_trees import write

from llava_vista.tools.kit import host_source
from llava_vista.tools.kit.host_source import SourceTree, calls, package_folders

pytestmark = pytest.mark.environments("latest")

PACKAGE = {
    "shapes/__init__.py": "from .base import Base\n",
    "shapes/base.py": "import abc\nclass Base(abc.ABC): ...\nclass Mixin: ...\n",
    "shapes/models/__init__.py": "",
    "shapes/models/round.py": "from ..base import Base as Aliased\nfrom shapes import base\n"
    "class Round(Aliased, base.Mixin): ...\n",
    "shapes/models/oval.py": "import shapes.models.round\nfrom .round import *\nfrom shapes import Base\n"
    "class Oval(Round): ...\nclass Other(Base): ...\nclass Far(shapes.models.round.Round): ...\n"
    "if True:\n    class Inner(Oval):\n        def area(self, a, /, b, *, c=1):\n            def inner():\n"
    "                return 1, 2\n            return a, b, c\n",
    "shapes/models/own.py": "import collections\nfrom collections import OrderedDict\n"
    "class Counter(collections.Counter): ...\nclass OrderedDict(OrderedDict): ...\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    return SourceTree(write(tmp_path, PACKAGE))


def test_lineage_is_that_of_the_imported_classes(tree, monkeypatch):
    """The reference is Python's own MRO."""
    monkeypatch.syspath_prepend(str(tree.root))
    for module, name in (
        ("base", "Base"), ("models.round", "Round"), ("models.oval", "Oval"), ("models.oval", "Other"),
        ("models.oval", "Far"), ("models.oval", "Inner"), ("models.own", "Counter"), ("models.own", "OrderedDict"),
    ):  # fmt: skip
        [source] = [cls for cls in tree.classes(name) if cls.module == f"shapes.{module}"]
        cls = getattr(importlib.import_module(source.module), name)
        lineage, outside = tree.lineage(source)
        bases = [base for base in cls.__mro__ if base.__module__.startswith("shapes.")]
        assert [item.qualified for item in lineage] == [f"{base.__module__}.{base.__qualname__}" for base in bases]
        others = {base.__name__ for known in bases for base in known.__bases__ if base not in bases} - {"object"}
        assert {base.rpartition(".")[2] for base in outside} == others


def test_method(tree):
    [inner] = tree.classes("Inner")
    method = inner.method("area")
    assert method is not None and inner.method("volume") is None
    assert (method.name, method.parameters, method.returns) == ("Inner.area", ["self", "a", "b", "c"], [2, 3])
    assert tree.place(method.path, method.node.lineno) == "shapes/models/oval.py:9"


def test_the_nearest_class_of_several_by_one_name(tmp_path):
    """A copy of another project's package beside a project's own."""
    files = {}
    for package in ("own", "vendored"):
        files[f"{package}/arch.py"] = f"class Meta:\n    def merge(self, {package}): ...\n"
        files[f"{package}/model.py"] = "from .arch import Meta\nclass Model(Meta): ...\n"
        files[f"{package}/star.py"] = "from .arch import *\nclass Star(Meta): ...\n"
    files["own/borrowed.py"] = "from vendored.arch import Meta\nclass Borrowed(Meta): ...\n"
    tree = SourceTree(write(tmp_path, files))
    for name, module, expected in (
        ("Model", "own.model", "own"),
        ("Model", "vendored.model", "vendored"),
        ("Borrowed", "own.borrowed", "vendored"),
        ("Star", "own.star", "own"),
        ("Star", "vendored.star", "vendored"),
    ):
        [cls] = [cls for cls in tree.classes(name) if cls.module == module]
        method = tree.lineage(cls)[0][1].method("merge")
        assert method is not None and method.parameters == ["self", expected]


@pytest.mark.parametrize(("prefix", "named"), [("", "."), ("src/", "."), ("", "shapes"), ("", "shapes/models")])
def test_modules_are_named_as_imports_name_them(tmp_path, prefix, named):
    write(tmp_path, {prefix + name: text for name, text in PACKAGE.items()})
    tree = SourceTree(tmp_path / named)
    assert "shapes.models.oval.Oval" in [cls.qualified for cls in tree.classes("Oval")]
    assert {tree.package(path) for path in tree.texts} == {"shapes"}


def test_what_is_left_out(tmp_path, monkeypatch):
    files = {"a.py": "", "broken.py": "print 'Trainer'\n", ".git/b.py": "", "venv/c.py": "", "p/node_modules/d.py": ""}
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    tree = SourceTree(write(tmp_path, files))
    assert [path.name for path in tree.texts] == ["a.py", "broken.py"] and not tree.truncated
    assert list(tree.mentioning(["Trainer"])) == []
    monkeypatch.setattr(host_source, "MAX_FILES", 1)
    assert SourceTree(tmp_path).truncated


def test_package_folders(tmp_path, monkeypatch):
    write(tmp_path, {"pack/__init__.py": "raise RuntimeError('imported')\n", "single.py": "", "space/a.py": ""})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_folders("pack") == [tmp_path / "pack"]
    assert package_folders("single") == [tmp_path / "single"]
    assert package_folders("space") == [tmp_path / "space"]
    monkeypatch.setitem(sys.modules, "without_spec", ModuleType("without_spec"))
    assert package_folders("nothing_by_that_name") == package_folders("without_spec") == []


def test_calls():
    source = "Parser(1)\nlib.Parser()\nParsers()\nx = Parser\n"
    assert calls(ast.parse(source), "Parser") == [1, 2]
