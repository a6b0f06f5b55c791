"""The demo's table and plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]
_LAST = 3  # records that "at the end" averages over


@dataclass(frozen=True)
class Arm:
    """One run: both stages' training records, wall times in seconds, held-out accuracy."""

    title: str
    logs: dict[str, list[Record]]
    seconds: dict[str, float]
    accuracy: float
    by_kind: dict[str, float]

    def cross_entropy(self, stage: str) -> list[float]:
        """CE of each record: the whole loss of a baseline, a key of its own with VISTA."""
        return [float(record["ce_loss" if "ce_loss" in record else "loss"]) for record in self.logs[stage]]

    def last(self, stage: str, key: str) -> float | None:
        """Mean of ``key`` over the last records that have it (text-only batches have nothing aligned)."""
        values = [
            float(record[key])
            for record in self.logs[stage]
            if key in record and (not key.startswith("vista") or record["vista_aligned_samples"])
        ][-_LAST:]
        return sum(values) / len(values) if values else None

    def summary(self) -> dict[str, Any]:
        """Plain values for results.json."""
        stages = {}
        for stage in self.logs:
            curve = self.cross_entropy(stage)
            stages[stage] = {
                "ce_first": curve[0],
                "ce_last": sum(curve[-_LAST:]) / len(curve[-_LAST:]),
                "vista_loss_last": self.last(stage, "vista_loss"),
                "vista_similarity_last": self.last(stage, "vista_similarity"),
                "seconds": self.seconds[stage],
            }
        return {"name": self.title, "stages": stages, "accuracy": self.accuracy, "accuracy_by_kind": self.by_kind}


def table(arms: Sequence[Arm], blind_guess: float) -> str:
    """The comparison as text."""
    head: tuple[str, ...] = (
        "",
        "CE stage 1",
        "CE stage 2",
        "VISTA loss",
        "similarity",
        "held-out answers",
        "wall time",
    )
    rows = [head]
    for arm in arms:
        stages = arm.summary()["stages"]
        curves = [f"{part['ce_first']:.2f} -> {part['ce_last']:.3f}" for part in stages.values()]
        final = stages["finetune"]
        vista = [final["vista_loss_last"], final["vista_similarity_last"]]
        shown = ["-" if value is None else f"{value:.4f}" for value in vista]
        seconds = f"{sum(part['seconds'] for part in stages.values()):.0f} s"
        rows.append((arm.title, *curves, *shown, f"{arm.accuracy:.1%}", seconds))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join([*lines, f"A blind guess (the most frequent answer to these words) gets {blind_guess:.1%}."])


def plot(arms: Sequence[Arm], path: Path) -> None:
    """Cross-entropy of both arms in both stages, and VISTA's own curves, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = [("#222222", "-"), ("#d95f02", "--")]  # dark and mid grey when printed, and told apart by the line too
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.5), constrained_layout=True, sharex="col")
    for column, (stage, title) in enumerate((("pretrain", "Stage 1: projector"), ("finetune", "Stage 2: all"))):
        upper, lower = axes[0][column], axes[1][column]
        for arm, (color, line) in zip(arms, styles, strict=False):
            steps = [record["step"] for record in arm.logs[stage]]
            upper.plot(steps, arm.cross_entropy(stage), color=color, linestyle=line, label=arm.title, linewidth=1.5)
            seen = [r for r in arm.logs[stage] if r.get("vista_aligned_samples")]
            if seen:
                steps = [record["step"] for record in seen]
                lower.plot(steps, [r["vista_loss"] for r in seen], color=color, linestyle="-", label="VISTA loss")
                similarity = [r["vista_similarity"] for r in seen]
                lower.plot(steps, similarity, color="#7570b3", linestyle=":", linewidth=2, label="similarity (mean I)")
        upper.set_title(title)
        upper.set_ylabel("cross-entropy (nats per token)")
        lower.set_ylabel("VISTA arm")
        lower.set_xlabel("optimizer step")
        for axis in (upper, lower):
            axis.grid(alpha=0.3)
            axis.legend(frameon=False)
    figure.savefig(path, dpi=140)
    plt.close(figure)
