"""A host's repository, read as text: its model classes, merge methods, trainers and entry scripts."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..kit.host_source import (
    Method,
    SourceTree,
    base_names,
    calls,
    classes_in,
    find_class,
    methods_in,
    package_folders,
    unbound_uses,
)
from .report import Section
from .troubles import SUSPECT_NAMES

if TYPE_CHECKING:
    from ...adapters import Adapter

PARSER = "HfArgumentParser"
#: LLaVA's own name for it, which nothing else goes by.
DISTINCTIVE = "prepare_inputs_labels_for_multimodal"
#: What VISTA passes and reads by name.
NEEDED_PARAMETERS = ("input_ids", "attention_mask", "labels")


class Recognised(NamedTuple):
    adapter: Adapter
    qualified: str
    path: Path


@dataclass
class Checkout:
    """What was found. Paths are relative to ``root``, places are "path:line"."""

    root: Path
    files: int = 0
    truncated: bool = False
    recognised: list[Recognised] = field(default_factory=list)
    merge_methods: list[Method] = field(default_factory=list)
    #: model classes with a merge method that no adapter knows: "name (path)"
    unknown: list[str] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    #: subclasses of some Trainer in the host's own packages: "name (place)"
    trainers: list[str] = field(default_factory=list)
    unbound: dict[str, str] = field(default_factory=dict)

    @property
    def packages(self) -> frozenset[str]:
        """The top-level folders that hold what was found."""
        paths = [item.path for item in self.recognised] + [method.path for method in self.merge_methods]
        return frozenset(map(_package, paths))

    @property
    def is_host(self) -> bool:
        return bool(self.recognised or self.merge_methods)


def _package(path: Path) -> str:
    """The top-level package of a file, for the usual layouts: ``package/...`` and ``src/package/...``"""
    parts = path.parts[1:] if path.parts[0] == "src" else path.parts
    return parts[0].removesuffix(".py")


def holds_host(folder: Path, adapters: Iterable[Adapter]) -> bool:
    """Whether a package by a host's name lies here. (Some checkouts have a model's config.json at their top.)"""
    packages = {qualified.partition(".")[0] for adapter in adapters for qualified in adapter.classes}
    return any(Path(folder, where, name, "__init__.py").is_file() for name in packages for where in ("", "src"))


def repository_root(folder: Path, adapters: Iterable[Adapter]) -> Path:
    """The folder that holds the host's package: ``folder``, or its parent when the package itself was named."""
    packages = {qualified.partition(".")[0] for adapter in adapters for qualified in adapter.classes}
    return folder.parent if folder.name in packages and (folder / "__init__.py").is_file() else folder


def inspect_checkout(folder: Path, adapters: Sequence[Adapter]) -> Checkout:
    """Read the Python files below ``folder``; none is imported."""
    root = repository_root(folder.resolve(), adapters)
    tree = SourceTree(root)
    checkout = Checkout(root, files=len(tree.paths), truncated=tree.truncated)
    for adapter in adapters:
        for qualified in adapter.classes:
            package = qualified.partition(".")[0]
            path = find_class([root / package, root / "src" / package], qualified)
            if path is not None:
                checkout.recognised.append(Recognised(adapter, qualified, path.relative_to(root)))
    merge_names = {adapter.merge_method for adapter in adapters} - {""}
    trainers: list[tuple[Path, ast.ClassDef]] = []
    for path, module in tree.mentioning([*merge_names, PARSER, "Trainer", *SUSPECT_NAMES]):
        place = path.relative_to(root)
        checkout.merge_methods += methods_in(place, module, merge_names)
        checkout.entries += [f"{place}:{line}" for line in calls(module, PARSER)]
        trainers += [
            (place, cls) for cls in classes_in(module) if any(base.endswith("Trainer") for base in base_names(cls))
        ]
        for name in SUSPECT_NAMES:
            if uses := unbound_uses(module, name):
                checkout.unbound[name] = f"{place}:{uses[0]}"
    checkout.recognised = _by_merge_method(checkout)
    checkout.merge_methods = _merge_methods(checkout)
    checkout.trainers = [
        f"{cls.name} ({place}:{cls.lineno})" for place, cls in trainers if _package(place) in checkout.packages
    ]
    checkout.unknown = _unknown_models(tree, checkout)
    return checkout


def _by_merge_method(checkout: Checkout) -> list[Recognised]:
    """Hosts share package and class names, for other things: whose merge method is defined here, is meant.

    Where none is, all stay, so that the missing method is reported.
    """
    defined = {method.name for method in checkout.merge_methods}
    meant = [item for item in checkout.recognised if item.adapter.merge_method in defined]
    return meant or checkout.recognised


def _merge_methods(checkout: Checkout) -> list[Method]:
    """Without the methods that merely have such a name: only one name says by itself what it is."""
    used = {item.adapter.merge_method for item in checkout.recognised}
    return [
        method
        for method in checkout.merge_methods
        if (method.name in used if used else method.name == DISTINCTIVE or not _missing(method))
    ]


def _missing(method: Method) -> list[str]:
    return [name for name in NEEDED_PARAMETERS if name not in method.parameters]


def _unknown_models(tree: SourceTree, checkout: Checkout) -> list[str]:
    """Models that own or inherit a merge method, have a forward, and are no known class or subclass of one."""
    if not checkout.merge_methods:
        return []
    owners = {method.owner for method in checkout.merge_methods}
    known = {item.qualified.rpartition(".")[2] for item in checkout.recognised}
    models = [
        (path.relative_to(checkout.root), cls)
        for path, module in tree.mentioning(owners | known)
        for cls in classes_in(module)
    ]
    return [
        f"{cls.name} ({path})"
        for path, cls in models
        if (cls.name in owners or base_names(cls) & owners)
        and cls.name not in known
        and not base_names(cls) & known
        and any(getattr(node, "name", "") == "forward" for node in cls.body)
    ]


def report_checkout(section: Section, checkout: Checkout, adapters: Sequence[Adapter]) -> None:
    """Say whether VISTA would work on this host's training."""
    section.plain("read", f"{checkout.files} Python files below {checkout.root}; none was imported")
    if checkout.truncated:
        section.note("read", "that is too many for one host's checkout, the rest was left out: name its own folder")
    if not checkout.files:
        section.wrong("host", "neither a checkpoint (no config.json of a model) nor a checkout (no Python file)")
        return
    if not checkout.is_host:
        section.wrong(
            "host",
            "another project, or a host that is not known yet: no class that an adapter knows, and no merge method. "
            f"Looked for {_looked_for(adapters)}.",
        )
        return
    if not checkout.recognised:
        section.wrong(
            "adapter",
            f"none knows the models of this host. Looked for {_looked_for(adapters)}. But there is a merge method, so "
            "an adapter of a few lines that names the class may do (register_adapter).",
        )
    for adapter, qualified, path in checkout.recognised:
        section.ok("adapter", f"{adapter.name} for {qualified.rpartition('.')[2]} ({path})")
    for model in checkout.unknown:
        section.note("no adapter", model)
    _report_merge_methods(section, checkout, adapters)
    for trainer in checkout.trainers:
        section.ok("trainer", trainer)
    if not checkout.trainers:
        section.note(
            "trainer",
            "no subclass of a Trainer found: --vista acts on transformers.Trainer. In a training loop of the host's "
            "own, call attach().",
        )
    for entry in checkout.entries:
        section.ok("reads flags", f"{entry} with {PARSER}: takes --vista")
    if not checkout.entries:
        section.note(
            "reads flags",
            f"no use of {PARSER} found: --vista would be an unknown argument there. Use LLAVA_VISTA=1 or install().",
        )
    _report_import(section, checkout)


def _report_merge_methods(section: Section, checkout: Checkout, adapters: Sequence[Adapter]) -> None:
    used = {item.adapter.merge_method for item in checkout.recognised}
    for adapter in {item.adapter.name: item.adapter for item in checkout.recognised}.values():
        if adapter.merge_method not in {method.name for method in checkout.merge_methods}:
            section.wrong(
                "merge method",
                f"{adapter.merge_method}, which adapter {adapter.name} goes by, is not defined in this checkout: this "
                "version of the host differs from those known.",
            )
    understood = {
        count for adapter in adapters if not used or adapter.merge_method in used for count in adapter.merge_returns
    }
    for method in checkout.merge_methods:
        text = f"{method.owner}.{method.name}{method.signature} ({method.path}:{method.line})"
        missing = _missing(method)
        if missing:
            section.wrong("merge method", f"{text} has no parameter {' or '.join(missing)}, which VISTA goes by.")
        elif method.returns and not understood & set(method.returns):
            counts = " or ".join(str(count) for count in method.returns)
            section.wrong(
                "merge method",
                f"{text} returns {counts} values; understood are {' or '.join(map(str, sorted(understood)))}. An "
                "adapter can say what they are (merge_returns).",
            )
        else:
            section.ok("merge method", text)


def _report_import(section: Section, checkout: Checkout) -> None:
    """Training imports the package by name: that had better be this checkout's."""
    for package in sorted({item.qualified.partition(".")[0] for item in checkout.recognised}):
        folders = package_folders(package)
        if folders and not any(folder.resolve().is_relative_to(checkout.root) for folder in folders):
            section.note(
                "import",
                f"Python here imports {package} from {folders[0]}, not from this checkout. To train this one: pip "
                f"install --no-deps -e {checkout.root}, or put it on PYTHONPATH.",
            )


def _looked_for(adapters: Sequence[Adapter]) -> str:
    names = [name for adapter in adapters for name in adapter.classes]
    methods = sorted({adapter.merge_method for adapter in adapters} - {""})
    return f"the classes {', '.join(names)} and a method {' or '.join(methods)}"
