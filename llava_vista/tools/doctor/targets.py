"""What there is to look at: installed hosts, checkouts and checkpoints. It needs the adapters, and so torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...adapters import Adapter, all_adapters, base
from ...adapters.base import config_placeholder_ids, other_sequence
from ...config import FLAG
from ...hooks.run_record import FILE_NAME as RUN_RECORD
from ..kit.host_source import SourceTree, package_folders
from ..kit.json_files import BadFile, read_object
from ..kit.report import NOTE, OK, WRONG, Checklist
from .attach_verdict import Verdict, host_packages, model_verdicts
from .checkout import Checkout, name_some
from .examination import Examination
from .known_issues import report_known_issues

CONFIG_FILE = "config.json"


def examine_targets(result: Examination, folders: Sequence[Path], versions: Mapping[str, str], facts: set[str]) -> None:
    """Add the sections on hosts, on the folders, and on issues known with what was found."""
    hosts, adapters = result.section("Hosts"), all_adapters()
    for name, why in (base._broken_entry_points or {}).items():
        hosts.note("adapters", f"{name} of an installed package cannot be loaded ({why}). Update or uninstall it.")
    installed, result.summaries["Hosts"] = report_hosts(hosts, adapters)
    checkpoints = {folder: checkpoint for folder in folders if (checkpoint := find_checkpoint(folder))}
    for folder in folders:
        if folder not in checkpoints:
            checkout, title = Checkout(folder, adapters), f"Checkout: {folder}"
            result.summaries[title] = checkout.report(result.section(title))
            result.models += checkout.models
            result.answers += filter(None, [checkout.answer])
            facts |= checkout.facts
    if len(checkpoints) == len(folders):  # else the checkout trains: what happens to be installed does not matter
        facts |= {f"host:{model.package}" for model in installed} | {f"class:{model.name}" for model in installed}
    for folder, checkpoint in checkpoints.items():
        title = f"Checkpoint: {folder}"
        answer = checkpoint.report(result.section(title), adapters, [*result.models, *installed])
        result.summaries[title] = str(folder)
        result.answers += [f"adapter {answer}"] if answer else []
        facts |= {f"{kind}:{name}" for name in checkpoint.classes for kind in ("asked", "class")}
    patched = result.section("Patched, only while VISTA is asked for")
    patched.plain("classes", f"HfArgumentParser: __init__, parse_known_args, parse_dict (--{FLAG}...); Trainer: train")
    patched.plain("the trainer", "on the instance, until train() returns or raises: compute_loss, log, one callback")
    methods = ", ".join(sorted({adapter.merge_method for adapter in adapters} - {""}))
    where = "on its class, while a model of it is attached, inert for others"
    patched.plain("the model", f"{where}: {methods}; hooks on its decoder")
    result.summaries["Known issues"] = report_known_issues(result.section("Known issues"), versions, facts)


def report_hosts(section: Checklist, adapters: Sequence[Adapter]) -> tuple[list[Verdict], str]:
    """Add the hosts that could be imported (none is); returns the verdicts on their classes, and a summary."""
    verdicts: list[Verdict] = []
    installed: list[str] = []
    for package in host_packages(adapters):
        folders = package_folders(package)
        if not folders:
            section.plain(package, "not installed")
            continue
        installed.append(package)
        section.ok(package, str(folders[0]))
        if package == "transformers":  # too many files to read
            qualified = [name for adapter in adapters for name in adapter.classes if "transformers." in name]
            names = ", ".join(name.rpartition(".")[2] for name in qualified)
            section.plain("  adapters", f"by name, if this version has it: {names}")
            continue
        found = [verdict for folder in folders for verdict in model_verdicts(SourceTree(folder), adapters)]
        for verdict in found:
            (section.plain if verdict.problem else section.ok)("  adapter", str(verdict))
        if not found:
            section.note("  adapter", f"none: {folders[0]} has none of the classes that adapters know by that name")
        verdicts += found
    section.plain("others", "adapter generic, if the class has LLaVA's merge method or image token ids in its config")
    return verdicts, ", ".join(installed) or "none installed that an adapter knows by name"


def find_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder; None when it has no config.json of a model.

    A checkout may have one too: a folder that holds a Python package is no checkpoint.
    """
    if not (folder / CONFIG_FILE).is_file() or any(any(folder.glob(f"{up}*/__init__.py")) for up in ("", "src/")):
        return None
    checkpoint = Checkpoint(folder)
    return checkpoint if checkpoint.error or {"architectures", "model_type"} & set(checkpoint.config) else None


class Checkpoint:
    """What ``config.json`` says about the model; ``error`` is why it cannot be read, or ""."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.error = folder, ""
        self.config: dict[str, Any] = {}
        try:
            self.config = read_object(folder / CONFIG_FILE)
        except BadFile as error:
            self.error = f"cannot be read: {error} Is the download complete?"
        architectures = self.config.get("architectures")
        self.classes = [str(name) for name in architectures] if isinstance(architectures, list) else []
        self.model_type = str(self.config.get("model_type") or "")
        self.is_llava_like = any(key.startswith("mm_") for key in self.config)
        self.sees = self.is_llava_like or any("vision" in key for key in self.config)

    def report(self, section: Checklist, adapters: Sequence[Adapter], models: Sequence[Verdict]) -> str:
        """Add which adapter the model gets, and return that in short; ``models`` are classes whose source is there."""
        if self.error:
            section.wrong(CONFIG_FILE, self.error)
            return ""
        tower = self.config.get("mm_vision_tower") or self.config.get("vision_tower")
        section.plain("architectures", ", ".join(self.classes) or "none named")
        section.plain("model_type", self.model_type or "none named")
        section.plain("vision tower", tower if isinstance(tower, str) else "none named")
        if (self.folder / RUN_RECORD).is_file():
            section.plain(RUN_RECORD, "the model was trained with VISTA; the file says how")
        own = model_verdicts(SourceTree(self.folder), adapters)  # code that comes with the checkpoint
        mark, answer, text = self._adapter(adapters, [*own, *models])
        {OK: section.ok, NOTE: section.note, WRONG: section.wrong}[mark]("adapter", text)
        if mark == OK and not self.sees:
            section.note("vision tower", "name one when training (LLaVA: --vision_tower); without images VISTA adds 0")
        return answer

    def _adapter(self, adapters: Sequence[Adapter], models: Sequence[Verdict]) -> tuple[str, str, str]:
        """Return what attach() does with the model: the mark, the adapter in short, and in full.

        After stage 1 the config still has the language model's class, beside the host's model type: then that counts.
        """
        named = ", ".join(self.classes) or self.model_type or "a class that is not named"
        if reason := other_sequence(self.config):
            return WRONG, "", f"none for {named}: it {reason}. Train it without VISTA."
        kind = re.compile(rb"model_type\s*=\s*[\"']%b[\"']" % re.escape(self.model_type.encode()))
        sourced = [model for model in models if model.name in self.classes]
        sourced += [model for model in models if self.sees and kind.search(model.cls.path.read_bytes())]
        if sourced:
            [model, *_] = sourced
            return WRONG if model.problem else OK, f"{model.adapter_name} for {model.name}", str(model)
        # Without the source, by names: a class has the bare one here, and its file is often called as the model type.
        listed = [(adapter.name, qualified) for adapter in adapters for qualified in adapter.classes]
        file = self.model_type.replace("-", "_")
        known = [item for item in listed if item[1].split(".")[-1] in self.classes] or [
            item for item in listed if self.sees and item[1].split(".")[-2].removeprefix("modeling_") == file
        ]
        if known:
            short = f"{' or '.join(dict.fromkeys(adapter for adapter, _ in known))} for {named}"
            return OK, short, "; ".join(f"{adapter}, if the class is {qualified}" for adapter, qualified in known)
        short = f"generic for {named}"
        if ids := config_placeholder_ids(SimpleNamespace(config=SimpleNamespace(**self.config))):  # type: ignore[arg-type]
            return OK, short, f"{short}, by its image token ids {ids}; the first batch is checked"
        if self.is_llava_like:
            short += ", if its code has LLaVA's merge method"
            return NOTE, short, f"{short}. Name the checkout with that code too: llava-vista doctor REPO CHECKPOINT"
        if not self.sees and self.classes and all(name.endswith("ForCausalLM") for name in self.classes):
            short = f"none for {named} as it is: a text-only language model"
            return NOTE, short, f"{short}. A host makes a class of its own from it and a vision tower; that one counts."
        families = [(sheet.name, [name.rpartition(".")[2] for name in sheet.classes]) for sheet in adapters]
        text = "; ".join(f"{name} ({name_some(classes) or 'by a rule of its own'})" for name, classes in families)
        return WRONG, "", f"none knows {named}. Known: {text}. Write a data sheet for others (register_adapter)."
