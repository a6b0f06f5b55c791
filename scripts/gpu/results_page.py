"""The table of a run, and RESULTS.md from the runs that are kept in results/.

python scripts/gpu/results_page.py      # after copying a run's results.json to results/cuda.json or results/cpu.json
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INTRODUCTION = """\
# Measured on a GPU and on a CPU

Written by `results_page.py` from the runs in `results/`; README.md says what each check is.
"""
NOT_RUN = """
## GPU

**Not run.** Nothing of this package has run on a GPU. `bash scripts/gpu/run.sh --out results` answers what is open in
less than ten minutes. The tests run the same command on a CPU at reduced size.
"""
CPU_NOTE = """
Times of a CPU are of computing, so that other work on the machine does not count; arms are timed in turn. The published
arithmetic is that of the released code, with its loop over samples.
"""


def make_table(document: dict[str, Any]) -> str:
    """Return a run's conditions and findings as Markdown."""
    where, rows = document["environment"], document["rows"]
    reduced = ", **reduced: nothing is measured, no goal judged**" if document["reduced"] else ""
    counts = Counter(row["status"] for row in rows)
    lines = [
        f"{where['device']}, torch {where['torch']}, transformers {where['transformers']}, Python {where['python']}, "
        f"{where['threads']} CPU threads, {where['date']}{reduced}. "
        f"{len(rows)} checks: {', '.join(f'{count} {status}' for status, count in counts.items())}.",
        "",
        "| part | check | measured | goal | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [str(row[key]).replace("|", "\\|").replace("\n", " ") for key in ("part", "check", "measured", "goal")]
        status = row["status"] if row["status"] in ("ok", "not run") else f"**{row['status']}**"
        lines.append(f"| {' | '.join([*cells, status])} |")
    return "\n".join(lines) + "\n"


def make_page(folder: Path) -> str:
    """Return RESULTS.md: the GPU's table, or that there is none, and the CPU's."""
    runs = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    page = INTRODUCTION + (f"\n## GPU\n\n{make_table(runs['cuda'])}" if "cuda" in runs else NOT_RUN)
    return page + (f"\n## CPU\n{CPU_NOTE}\n{make_table(runs['cpu'])}" if "cpu" in runs else "")


if __name__ == "__main__":
    (HERE / "RESULTS.md").write_text(make_page(HERE / "results"))
