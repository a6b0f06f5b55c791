"""A host's checkout, read as text: its model classes, trainers and training scripts."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ...adapters import Adapter
from ..kit.host_source import SourceTree, calls, last_name, package_folders
from ..kit.report import Checklist
from .attach_verdict import Verdict, host_packages, model_verdicts

PARSER = "HfArgumentParser"
#: Used, and imported, in a trainer: LLaVA-NeXT's copy of transformers' training loop forgot to.
_SUSPECT = re.compile(rb"\bDebugOption\.")
_SUSPECT_IMPORT = re.compile(rb"import\s*(\*|\([^)]*\bDebugOption\b|[^\n(]*\bDebugOption\b)")


class Checkout:
    """What was found in a checkout.

    models: the verdicts on the project's own models.
    set_aside: top-level packages of other models: copies of another host, or what is not trained here.
    facts: what `known_issues` can depend on.
    """

    def __init__(self, folder: Path, adapters: Sequence[Adapter]) -> None:
        self.tree = tree = SourceTree(folder.resolve())
        self.facts: set[str] = set()
        self._entries: list[str] = []
        self._trainers: list[tuple[str, str]] = []  # (package, "name (place)")
        self._training: set[Path] = set()
        for path, module in tree.mentioning([PARSER, "Trainer"]):
            entries = [tree.place(path, line) for line in calls(module, PARSER)]
            trainers = [
                (tree.package(path), f"{cls.name} ({tree.place(path, cls.node.lineno)})")
                for cls in tree.classes_of(path)
                if any(last_name(base).endswith("Trainer") for base in cls.node.bases)
            ]
            self._entries += entries
            self._trainers += trainers
            if trainers or entries:
                self._training.add(path)
            if _SUSPECT.search(tree.texts[path]) and not _SUSPECT_IMPORT.search(tree.texts[path]):
                self.facts.add("unbound:DebugOption")
        self._hosts = set(host_packages(adapters))
        found = model_verdicts(tree, adapters)
        self.models = self._own(found)
        self.set_aside = sorted({f"{model.package}/" for model in found if model not in self.models})
        self.packages = {model.package for model in self.models}
        self.facts |= {f"host:{package}" for package in self.packages} | {f"class:{m.name}" for m in self.models}
        self.facts |= {f"merge:{name}" for model in self.models if model.merge for name in model.merge.parameters}

    def _is_trained(self, model: Verdict) -> bool:
        """Return whether training code names the class."""
        word = re.compile(rb"\b" + re.escape(model.name.encode()) + rb"\b")
        naming = (path for path in self._training if word.search(self.tree.texts[path]))
        return any(self.tree.resolve(path, ast.Name(model.name)) == model.cls for path in naming)

    def _own(self, models: list[Verdict]) -> list[Verdict]:
        """Return the project's own models.

        A package with the name of a known host is a copy that came with another project if models of another package
        are trained here, or if it has no training code.
        """
        training = {self.tree.package(path) for path in self._training}
        others = [model for model in models if model.package not in self._hosts]
        own = [model for model in others if model.package in training or self._is_trained(model)]
        return own or (models if training & self._hosts else others) or models

    @property
    def answer(self) -> str:
        """The adapters of the models, in words."""
        names: defaultdict[str, list[str]] = defaultdict(list)
        for model in self.models:
            if not model.problem:
                names[model.adapter_name].append(model.name)
        return "; ".join(f"adapter {adapter} for {name_some(classes)}" for adapter, classes in names.items())

    def report(self, section: Checklist) -> str:
        """Add what was found, and return the section's summary."""
        tree = self.tree
        section.plain("read", f"{len(tree.texts)} Python files below {tree.folder}; none was imported")
        if tree.truncated:
            section.note("read", "too many for one host's checkout, the rest was left out: name its own folder")
        if not tree.texts:
            section.wrong("host", "neither a checkpoint (no config.json of a model) nor a checkout (no Python file)")
        elif not self.models:
            section.wrong(
                "host",
                "another project: no class that an adapter knows, none with LLaVA's merge method, and none whose "
                "forward pass takes labels and images. A model of another kind needs a data sheet (register_adapter).",
            )
        else:
            self._report_models(section)
            self._report_training(section)
        return section.lines[0].text

    def _report_models(self, section: Checklist) -> None:
        problems: defaultdict[tuple[str, str], list[Verdict]] = defaultdict(list)
        for model in self.models:
            if model.problem:
                problems[model.adapter_name, model.problem].append(model)
            else:
                section.ok("adapter", str(model))
        is_any_known = any(model.adapter for model in self.models)
        for (adapter, problem), models in problems.items():
            # A class that no adapter knows and no training code names does not matter beside others.
            matters = models[0].adapter or not is_any_known or any(map(self._is_trained, models))
            text = f"{adapter} for {name_some(list(dict.fromkeys(model.name for model in models)))}: {problem}"
            (section.wrong if matters else section.note)("adapter", text)
        if self.set_aside:
            folders = ", ".join(self.set_aside)
            section.note("set aside", f"models in {folders}: a copy of another host, or not trained here")
        for merge in dict.fromkeys(model.merge for model in self.models if model.merge):
            place = self.tree.place(merge.path, merge.node.lineno)
            section.ok("merge method", f"{merge.name}({ast.unparse(merge.node.args)}) ({place})")

    def _report_training(self, section: Checklist) -> None:
        trainers = [trainer for package, trainer in self._trainers if package in self.packages]
        for trainer in trainers:
            section.ok("trainer", trainer)
        if not trainers:
            acts = "no subclass of a Trainer found: --vista acts on transformers.Trainer"
            section.note("trainer", f"{acts}. In a training loop of the host's own, call attach().")
        for entry in self._entries:
            section.ok("reads flags", f"{entry} with {PARSER}: takes --vista")
        if not self._entries:
            section.note("reads flags", f"no {PARSER} found: --vista would be unknown. Use LLAVA_VISTA=1 or install().")
        for package in sorted(self.packages & self._hosts):  # training imports it by name: from here?
            folders, root = package_folders(package), self.tree.root
            if folders and not any(folder.resolve().is_relative_to(root) for folder in folders):
                copy = f"Python here imports {package} from {folders[0]}, not from this checkout"
                section.note(
                    "import", f"{copy}. To train this one: pip install --no-deps -e {root}, or put it on PYTHONPATH."
                )


def name_some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
