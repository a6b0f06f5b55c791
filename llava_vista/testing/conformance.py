"""Run every check of the kit on a model, and report in words what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import nn

from ..errors import VistaError
from .case import Case, Skipped
from .checks import CHECKS, OF_THE_LAYOUT


class ConformanceError(VistaError, AssertionError):
    """A model or its adapter failed a check of the kit. An AssertionError too, so that test runners show it as one."""


class Outcome(NamedTuple):
    """One check's result: "ok", "skipped" (with the reason) or "failed" (with what was wrong)."""

    check: str
    result: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.result}{f' ({self.words})' if self.words else ''}"


def check_adapter(
    build_model: Callable[[], nn.Module],
    build_batch: Callable[[], dict[str, Any]],
    *,
    skip: Iterable[str] = (),
) -> list[Outcome]:
    """Run all checks on a model in training mode.

    Args:
        build_model: makes a new model at each call, with the same weights every time (the kit seeds torch before it).
            Small and in float32: the checks run it often, and compare bit for bit.
        build_batch: makes new keyword arguments of its forward pass at each call. With ``labels``; best with rows of
            different lengths, a text-only row and a row with two images.
        skip: names of checks that the host itself cannot pass; they are listed as skipped.

    Returns:
        One outcome per check. A cause is reported once: what cannot hold beside it is skipped.

    Raises:
        ConformanceError: at least one check failed; the message lists all that did.
        ValueError: ``skip`` names a check that does not exist.
    """
    unknown = set(skip) - set(CHECKS)
    if unknown:
        raise ValueError(f"no check is named {', '.join(sorted(unknown))}; there are: {', '.join(CHECKS)}.")
    outcomes: list[Outcome] = []
    case = Case(build_model, build_batch)
    for name, check in CHECKS.items():
        if name in skip:
            outcomes.append(Outcome(name, "skipped", "asked for"))
            continue
        wrong = next((one.check for one in outcomes if one.result == "failed" and one.check in OF_THE_LAYOUT), None)
        if wrong is not None and name not in OF_THE_LAYOUT:
            outcomes.append(Outcome(name, "skipped", f"not run: the layout is wrong, see {wrong}"))
            continue
        try:
            check(case)
            outcomes.append(Outcome(name, "ok"))
        except Skipped as reason:
            outcomes.append(Outcome(name, "skipped", str(reason)))
        except Exception as error:  # noqa: BLE001  (a host may raise anything)
            kind = "" if isinstance(error, (VistaError, AssertionError)) else f"{type(error).__name__}: "
            words = f"{kind}{error}"
            first = next((one.check for one in outcomes if one.words == words), None)
            outcomes.append(Outcome(name, "skipped", f"as {first}") if first else Outcome(name, "failed", words))
    failed = [outcome for outcome in outcomes if outcome.result == "failed"]
    if failed:
        raise ConformanceError(
            f"{len(failed)} of {len(outcomes)} checks failed on {type(case.model()).__name__}:\n"
            + "\n".join(f"  {outcome}" for outcome in failed)
        )
    return outcomes
