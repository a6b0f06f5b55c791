"""``llava-vista patch``: make VISTA native in a host's source, for those who prefer source to hooks.

upstreams    the repositories that a change is known for, and recognising one (data in known/)
lines        lines beside an anchor: in, and out again byte for byte
plan         what a checkout holds of the change, and what its files would hold
repository   git's view of the checkout; writing all files or none
diff         the change as git prints it
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Plan

ACTIONS = {
    "apply": "put VISTA's flags and the call to llava-vista into the checkout, and print the diff",
    "check": "say whether the change is in, or would go in; nothing is written",
    "reverse": "take it out again, byte for byte",
    "diff": "print the change as a diff; nothing is written",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``llava-vista patch``."""
    from .upstreams import PARTS, known

    parser.add_argument(
        "action", choices=ACTIONS, metavar="|".join(ACTIONS), help="; ".join(f"{k}: {v}" for k, v in ACTIONS.items())
    )
    parser.add_argument("--repo", required=True, metavar="PATH", help="checkout to patch; nothing else is written to")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=PARTS,
        metavar="PART",
        help=f"only this part of the change ({', '.join(PARTS)}); may be given several times",
    )
    parser.add_argument(
        "--allow-dirty", action="store_true", help="also touch files that hold changes which are not committed"
    )
    titles = ", ".join(upstream.title for upstream in known())
    parser.epilog = (
        f"Known: {titles}, and forks of them. The diff goes to standard output, everything else to standard error. "
        "Exit code: 0 when the change is in (check: or would go in), 1 when check finds that it would not, 2 for an "
        "error."
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked for.

    Returns:
        0, or 1 when ``check`` finds that the change would not go in.

    Raises:
        PatchError: and nothing was written.
    """
    from .plan import make_plan
    from .upstreams import recognise, version

    root = Path(args.repo)
    upstream = recognise(root)
    plan = make_plan(upstream, root, args.only)
    _say(f"{root}: {upstream.title}, {version(root)}{_where(root)}.")
    if args.action == "diff":
        _stop_at(plan, [*plan.misfits, *plan.problems])
        _print_diff(plan)
        return 0
    if args.action == "check":
        return _check(plan)
    if args.action == "reverse":
        return _reverse(plan, args.allow_dirty)
    return _apply(plan, args.allow_dirty)


def _where(root: Path) -> str:
    from .repository import commit

    found = commit(root)
    return f" at {found}" if found else ", not under git's control (local changes cannot be told from its own lines)"


def _check(plan: Plan) -> int:
    tried = plan.upstream.tried
    _say(f"The change was made and tried on {tried['commit'][:7]}, {tried['date']}, version {tried['version']}.")
    for line in plan.present:
        _say(f"in:      {line}")
    for line in plan.absent:
        _say(f"goes in: {line}")
    for line in plan.skipped:
        _say(line)
    for line in (*plan.misfits, *plan.problems):
        _say(f"fails:   {line}")
    if plan.misfits or plan.problems:
        return 1
    _say("The change would go in." if plan.absent else "The change is in.")
    return 0


def _apply(plan: Plan, allow_dirty: bool) -> int:
    from .repository import write_all

    _stop_at(plan, [*plan.misfits, *plan.problems])
    changed = {name: file for name, file in plan.files.items() if file.now != file.with_change}
    for line in plan.skipped:
        _say(line)
    if not changed:
        _say("The change is in already; nothing to do.")
        return 0
    _refuse_dirty(plan, list(changed), allow_dirty)
    write_all(plan.root, {file.path: file.with_change for file in changed.values()})
    _print_diff(plan)
    _say(f"Changed: {', '.join(changed)}. `llava-vista patch reverse --repo {plan.root}` takes it out again.")
    return 0


def _reverse(plan: Plan, allow_dirty: bool) -> int:
    from .repository import write_all

    _stop_at(plan, plan.problems)
    changed = {name: file for name, file in plan.files.items() if file.now != file.without}
    if not changed:
        _say("Nothing of the change is there; nothing to do.")
        return 0
    _refuse_dirty(plan, list(changed), allow_dirty)
    write_all(plan.root, {file.path: file.without for file in changed.values()})
    _say(f"Restored: {', '.join(changed)}.")
    return 0


def _stop_at(plan: Plan, reasons: list[str]) -> None:
    from .errors import PatchError

    if reasons:
        tried = plan.upstream.tried
        raise PatchError(
            f"the change does not fit this checkout, and nothing was written. {'. '.join(reasons)}. It was made "
            f"on {plan.upstream.url} at {tried['commit'][:7]} ({tried['date']}); `llava-vista patch diff` on that "
            "commit shows what to put in by hand. --vista works without any patch."
        )


def _refuse_dirty(plan: Plan, names: list[str], allow_dirty: bool) -> None:
    from .errors import PatchError
    from .repository import is_dirty

    dirty = [name for name in names if is_dirty(plan.root, name, plan.files[name].now, plan.upstream)]
    if dirty and not allow_dirty:
        raise PatchError(
            f"{', '.join(dirty)} in {plan.root} {'has' if len(dirty) == 1 else 'have'} changes that are not committed. "
            "Commit or stash them, or add --allow-dirty; nothing was written."
        )


def _print_diff(plan: Plan) -> None:
    from .diff import diff

    sys.stdout.flush()
    sys.stdout.buffer.write(diff(plan.files.items()))
    sys.stdout.flush()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
