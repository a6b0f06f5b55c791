"""Results as plain values: what `probe.json` is made of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .bootstrap import CONFIDENCE, Curve, Estimate


def number(value: float) -> float | None:
    """A float for JSON, which has no NaN: None stands for "not defined"."""
    return float(value) if math.isfinite(value) else None


def estimate_record(estimate: Estimate) -> dict[str, Any]:
    """A number with its interval."""
    return {
        "value": number(estimate.value),
        "low": number(estimate.low),
        "high": number(estimate.high),
        "n": estimate.n,
        "confidence": CONFIDENCE,
    }


def curve_record(curve: Curve) -> dict[str, Any]:
    """A curve with its pointwise band; ``x`` counts positions (or layers) from 1."""
    return {
        "x": list(range(1, 1 + len(curve.mean))),
        "mean": [number(value) for value in curve.mean.tolist()],
        "low": [number(value) for value in curve.low.tolist()],
        "high": [number(value) for value in curve.high.tolist()],
        "n": curve.n.tolist(),
        "confidence": CONFIDENCE,
    }


def write_json(record: dict[str, Any], path: Path) -> None:
    """Write the results."""
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
