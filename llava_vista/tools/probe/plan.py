"""What is to be probed and how: the options of the command, checked. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError

#: Ways to say "no image"; `llava_vista.tools.probe.blinding` tells what each means for the numbers.
NO_IMAGE = {
    "masked": "image positions masked out of attention, position ids unchanged",
    "blank": "a uniform grey image of the same size",
    "shuffled": "another sample's image (each image is given another one, by the seed)",
}
MEASURES = ("information", "alignment", "attention", "neighbours")
RESAMPLES = 1000


@dataclass(frozen=True)
class Plan:
    """The options of ``llava-vista probe``; see `llava_vista.tools.probe.add_arguments`.

    Raises:
        ConfigError: a value is out of range.
    """

    checkpoints: tuple[Path, ...]
    data: Path | None
    images: Path | None
    names: tuple[str, ...]
    no_image: str = "masked"
    measures: tuple[str, ...] = MEASURES
    samples: int = 200
    batch_size: int = 4
    max_new_tokens: int = 128
    base: Path | None = None
    template: str | None = None
    tower: str | None = None
    device: str | None = None
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise ConfigError("a checkpoint was given twice.")
        if len(self.names) != len(self.checkpoints) or len(set(self.names)) < len(self.names):
            raise ConfigError(
                f"--names must give each of the {len(self.checkpoints)} checkpoints a name of its own, got "
                f"{', '.join(self.names)}."
            )

    def record(self) -> dict[str, Any]:
        """The options as plain values, for the JSON; the checkpoints have records of their own."""
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        del plain["checkpoints"], plain["names"]
        return {**plain, "resamples": RESAMPLES}


def short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """What tells the folders apart: their paths without the parts they share; one folder keeps its last two parts."""
    parts = [path.absolute().parts for path in paths]
    if len(parts) == 1:
        return ("/".join(parts[0][-2:]),)
    shortest = min(len(part) for part in parts)
    head = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest - 1)
    tail = next((i for i in range(shortest - head) if len({part[-1 - i] for part in parts}) > 1), 0)
    return tuple("/".join(part[head : len(part) - tail]) for part in parts)
