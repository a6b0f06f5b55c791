"""How checkpoints are loaded and run without their training script: LLaVA-1.5's, and transformers' own.

Every other family is measured inside its own training script (README.md of the probe).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....errors import ProbeError, UnsupportedModelError
from ...kit.json_files import BadFile, read_object
from .llava_host import LlavaHost
from .probe_host import LoadOptions, ProbeHost
from .transformers_host import TransformersHost

__all__ = ["LoadOptions", "ProbeHost"]

#: The families, in the order in which they are tried.
HOSTS: list[type[ProbeHost]] = [LlavaHost, TransformersHost]


def load_checkpoint(folder: Path, options: LoadOptions) -> ProbeHost:
    """Load a checkpoint with the host that knows its config.json, or raise ProbeError where there is none."""
    try:
        config = read_object(folder / "config.json")
    except BadFile as error:
        raise ProbeError(
            f"{folder} holds no config.json as a training run saves it: {error} (Download a model from a hub first.)"
        ) from error
    return choose_host(folder, config)(folder, config, options)


def choose_host(folder: Path, config: dict[str, Any]) -> type[ProbeHost]:
    """Return the host that knows this config.json and whose code is importable here.

    Raises:
        ProbeError: its code is not importable, or another repository's is in its place.
        UnsupportedModelError: no host knows it.
    """
    found = ", ".join(config.get("architectures") or []) or f"model_type {config.get('model_type')!r}"
    other = (
        "A checkpoint of another repository is measured in that repository's own training script: llava-vista probe -- "
        "COMMAND ARGS."
    )
    claiming = {host: host.missing(config) for host in HOSTS if host.claims(config)}
    for host, missing in claiming.items():
        if missing is None:
            return host
    if not claiming:
        known = "; ".join(f"{host.name} ({', '.join(host.known())})" for host in HOSTS)
        raise UnsupportedModelError(f"the probe does not load {found} ({folder}). {other} Loaded here: {known}.")
    reasons = "; ".join(f"{host.name}: {missing}" for host, missing in claiming.items())
    raise ProbeError(
        f"{folder} ({found}) needs the code that trained it: {reasons}. Install it in this environment, or put its "
        f"checkout on PYTHONPATH. {other}"
    )
