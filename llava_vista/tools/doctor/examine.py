"""The examination: every section of the report, in order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import ENVIRONMENT_VARIABLE, FLAG
from ...errors import VistaError
from . import environment
from .checkout import holds_host, inspect_checkout, report_checkout
from .checkpoint import CONFIG_FILE, is_checkpoint, report_checkpoint
from .report import Report, Section
from .troubles import TROUBLES, Situation

if TYPE_CHECKING:
    from ...adapters import Adapter


class TargetError(VistaError, ValueError):
    """What the doctor was asked to look at is not a directory here."""


def examine(target: str | None = None) -> Report:
    """Look at this environment and, if given, at a checkout or checkpoint directory.

    Raises:
        TargetError: ``target`` is not a directory.
    """
    folder = None if target is None else _target_folder(target)
    report = Report()
    torch = environment.torch_state()
    works = not torch.trouble
    versions = environment.found_versions()
    environment.report_versions(report.section("Versions"), versions, torch)
    environment.report_startup(report.section("Start-up hook"))
    environment.report_request(
        report.section("Asked for in the environment"), os.environ.get(ENVIRONMENT_VARIABLE), works
    )
    hosts_section = report.section("Installed hosts")
    if torch.trouble:
        hosts_section.note(
            "adapters", "need torch to be loaded, so hosts, checkouts and checkpoints were not looked at"
        )
        return report
    adapters = environment.known_adapters(hosts_section)
    hosts, classes = environment.report_hosts(hosts_section, adapters)
    situation = Situation(versions, cpu_build=torch.cpu_build, hosts=hosts, classes=classes)
    if folder is not None:
        situation = _examine_target(report, folder, adapters, situation)
    report_patches(report.section("What is patched, only while VISTA is asked for"), adapters)
    report_troubles(report.section("Known trouble"), situation)
    return report


def _target_folder(target: str) -> Path:
    path = Path(target).expanduser()
    if path.name == CONFIG_FILE and path.is_file():
        path = path.parent
    if path.is_dir():
        return path
    found = "is a file" if path.exists() else "does not exist"
    raise TargetError(
        f"{target} {found}; a directory was expected: a host's checkout, or a checkpoint with a {CONFIG_FILE}. (A "
        "model on a hub has to be downloaded first.)"
    )


def _examine_target(report: Report, folder: Path, adapters: list[Adapter], situation: Situation) -> Situation:
    """Look at the directory that was asked about; returns what troubles can depend on, with what it adds."""
    if is_checkpoint(folder) and not holds_host(folder, adapters):
        asked = report_checkpoint(report.section(f"Checkpoint {folder}"), folder, adapters)
        return replace(situation, asked=asked)
    checkout = inspect_checkout(folder, adapters)
    report_checkout(report.section(f"Checkout {folder}"), checkout, adapters)
    return replace(
        situation,
        # What trains is the checkout: other hosts that happen to be installed do not matter.
        hosts=checkout.packages,
        classes=frozenset(item.qualified.rpartition(".")[2] for item in checkout.recognised),
        merge_parameters=frozenset(name for method in checkout.merge_methods for name in method.parameters),
        unbound=checkout.unbound,
    )


def report_patches(section: Section, adapters: Iterable[Adapter]) -> None:
    """In words, everything of somebody else's that is touched, and for how long."""
    methods = sorted({adapter.merge_method for adapter in adapters} - {""})
    section.plain("HfArgumentParser", f"on the class: __init__, parse_known_args, parse_dict, to take --{FLAG}... out")
    section.plain("Trainer", "on the class: train")
    section.plain("the trainer", "on the instance, until train() returns or raises: compute_loss, log, one callback")
    section.plain(
        "the model",
        f"on its class, while a model of it is attached, inert for others: {', '.join(methods)}; hooks on its decoder",
    )


def report_troubles(section: Section, situation: Situation) -> None:
    """The rows of `TROUBLES` that apply here."""
    for trouble in TROUBLES:
        if not trouble.when(situation):
            continue
        text = f"{trouble.message} {trouble.remedy}"
        if trouble.stops(situation):
            section.wrong(trouble.label, text)
        else:
            section.note(trouble.label, text)
    if not section.lines:
        section.ok("versions", "none known with what was found")
