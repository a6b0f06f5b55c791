"""Installed hosts, the folders that were named, and issues known with them: what needs the adapters, and so torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...adapters import Adapter, all_adapters, base
from ...config import FLAG
from ..kit.host_source import SourceTree, package_folders
from ..kit.report import Checklist
from .attach_verdict import Verdict, host_packages, model_verdicts
from .checkout import Checkout
from .checkpoint import find_checkpoint
from .examination import Examination
from .known_issues import report_known_issues


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
