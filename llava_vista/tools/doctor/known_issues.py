"""What fails with which versions or sources: the rows of known_issues.json.

A row is added when something was seen to fail; nothing is guessed. It applies when every rule of ``versions`` fits,
every entry of ``when`` is a fact (``a|b``: one of them is), and none of ``unless`` is. ``stops`` (true, or a fact): the
training that was asked about cannot run. The facts:

    host:PACKAGE, class:NAME          a host and its model classes, installed or in the checkout
    asked:NAME                        the class of the checkpoint
    merge:PARAMETER, unbound:NAME     of the checkout: a merge method's parameter; a name used but not imported
    torch:cpu, PACKAGE:+LOCAL         torch was built without CUDA; a local version label
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..kit.report import Checklist

KNOWN_ISSUES: list[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def is_version(found: str | None, rule: str) -> bool:
    """Return whether a version fits a rule such as ``>=4.37,<5``; pre-releases and ``+cpu`` count as their release."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return found is not None and SpecifierSet(rule).contains(Version(found).base_version)
    except InvalidVersion:
        return False


def applies(issue: Mapping[str, Any], versions: Mapping[str, str], facts: Collection[str]) -> bool:
    """Return whether a row applies to what is installed and what was found."""
    known = {*facts, *(f"{name}:+{version.partition('+')[2]}" for name, version in versions.items())}
    if "llava" in versions:  # LLaVA's name when installed from its checkout
        versions = {"llava-torch": versions["llava"], **versions}
    return (
        all(is_version(versions.get(name), rule) for name, rule in issue.get("versions", {}).items())
        and all(known & set(fact.split("|")) for fact in issue.get("when", ()))
        and not known & set(issue.get("unless", ()))
    )


def report_known_issues(section: Checklist, versions: Mapping[str, str], facts: Collection[str]) -> str:
    """Add the rows that apply, and return a summary."""
    try:
        rows = [issue for issue in KNOWN_ISSUES if applies(issue, versions, facts)]
    except ModuleNotFoundError as error:
        section.note("versions", f"not checked: {error.name} is not installed (pip install {error.name})")
        return section.lines[0].text
    for issue in rows:
        stops = issue.get("stops", False)
        (section.wrong if stops is True or stops in facts else section.note)(issue["label"], issue["text"])
    if not rows:
        section.ok("versions", "none with what was found")
    return f"{len(rows) or 'none'} with what was found"
