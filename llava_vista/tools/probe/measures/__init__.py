"""The measures, one file each. A measure collects a few numbers per sample, and returns a record for the JSON.

A new one is a file, its row in ``checkpoint_probe`` and its name in ``probe_options.MEASURES``. A panel
(``probe_panels.PANELS``) and a row (``probe_table.ROWS``) show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..bootstrap import Bootstrap
from ..conversation_samples import Sample
from ..forward_trace import Trace


@dataclass(frozen=True)
class ProbedBatch:
    """What the measures are given of one batch.

    Attributes:
        labels: (B, T) the id at answer tokens, negative elsewhere.
        decode: token ids to text.
        blind, blind_labels: the same samples without their images; None unless information is measured.
        tower: (B, d_vision) features of the images; None unless neighbours are measured.
    """

    samples: Sequence[Sample]
    trace: Trace
    labels: Tensor
    decode: Callable[[Sequence[int]], str]
    blind: Trace | None = None
    blind_labels: Tensor | None = None
    tower: Tensor | None = None


class Measure(Protocol):
    """Collects batches, and reports them."""

    def add(self, batch: ProbedBatch) -> None:
        """Collect one batch."""

    def record(self, bootstrap: Bootstrap) -> dict[str, Any]:
        """Return the results for the JSON."""
