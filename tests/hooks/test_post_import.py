"""The watcher on loaders that are shared, of the old kind, slotted or lazy, and on reloaded modules."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from llava_vista.hooks import post_import


class Shared:
    """One loader for several modules."""

    __slots__ = ("ran",)

    def __init__(self) -> None:
        self.ran: list[str] = []

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self.ran.append(module.__name__)
        module.value = 1  # type: ignore[attr-defined]

    def get_source(self, name: str) -> str:
        return f"source of {name}"


class Legacy:
    """Only ``load_module``, as loaders were before Python 3.4."""

    def load_module(self, name: str) -> ModuleType:
        module = sys.modules.setdefault(name, ModuleType(name))
        module.__loader__ = self  # type: ignore[assignment]
        module.value = 1  # type: ignore[attr-defined]
        return module


class Finder:
    def __init__(self, loader: object) -> None:
        self.loader = loader

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self.loader) if name.startswith("watched_xyz") else None  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def hook(tmp_path: Path, monkeypatch) -> Iterator[None]:
    (tmp_path / "hook_module_xyz.py").write_text(
        "def apply(module):\n    before = module.value\n    module.value = 2\n"
        "    def undo():\n        module.value = before\n    return undo\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = list(sys.meta_path)
    yield
    post_import.unwatch_all()
    sys.meta_path[:] = path
    for name in [name for name in sys.modules if name.startswith(("watched_xyz", "hook_module_xyz"))]:
        del sys.modules[name]


@pytest.mark.parametrize("loader", [Shared(), Legacy()], ids=["shared and slotted", "legacy"])
@pytest.mark.filterwarnings("ignore::ImportWarning", "ignore::DeprecationWarning")
def test_a_loader_is_not_changed(loader) -> None:
    sys.meta_path.insert(0, Finder(loader))  # type: ignore[arg-type]
    post_import.watch("watched_xyz_a", "hook_module_xyz")
    post_import.watch("watched_xyz_b", "hook_module_xyz")
    modules = [importlib.import_module(f"watched_xyz_{letter}") for letter in "abc"]
    assert [module.value for module in modules] == [2, 2, 1]
    for module in modules:
        assert module.__loader__ is loader
        assert module.__spec__.loader is loader
    post_import.unwatch_all()
    assert [module.value for module in modules] == [1, 1, 1]


def test_a_reloaded_module_is_acted_on_again_and_the_old_one_stays(tmp_path: Path) -> None:
    source = tmp_path / "watched_source_xyz.py"
    source.write_text("class Thing:\n    value = 1\nvalue = 1\n")
    (tmp_path / "hook_class_xyz.py").write_text(
        "def apply(module):\n    cls = module.Thing\n    cls.value = 2\n"
        "    def undo():\n        cls.value = 1\n    return undo\n"
    )
    post_import.watch("watched_source_xyz", "hook_class_xyz")
    module = importlib.import_module("watched_source_xyz")
    old = module.Thing
    assert importlib.reload(module) is module
    assert module.Thing is not old and (old.value, module.Thing.value) == (2, 2)
    assert type(module.__spec__.loader) is SourceFileLoader
    post_import.unwatch_all()
    assert (old.value, module.Thing.value) == (1, 1)
    sys.modules.pop("watched_source_xyz"), sys.modules.pop("hook_class_xyz")


def test_a_lazy_loader_and_a_module_that_fails(tmp_path: Path) -> None:
    (tmp_path / "watched_failing_xyz.py").write_text("raise RuntimeError('broken host')\n")
    post_import.watch("watched_failing_xyz", "hook_module_xyz")
    with pytest.raises(RuntimeError, match="broken host"):
        importlib.import_module("watched_failing_xyz")
    (tmp_path / "watched_failing_xyz.py").write_text("value = 1\n")
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("watched_failing_xyz")
    assert spec is not None and spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["watched_failing_xyz"] = module
    spec.loader.exec_module(module)
    assert module.value == 2
    del sys.modules["watched_failing_xyz"]
