"""The table of a run, and RESULTS.md from the runs that are kept in results/.

python scripts/gpu/results_page.py      # after copying a run's results.json to results/cuda.json or results/cpu.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
INTRODUCTION = """\
# Measured: GPU and CPU

Written by `results_page.py` from `results/`. `run.sh` makes these files; README.md says what each check is.
"""
NOT_RUN_YET = """
## GPU

**Not run.** Nothing of this package has run on a GPU. `bash scripts/gpu/run.sh --out results` answers what is open in less than
ten minutes; the same command at reduced size runs on a CPU in the tests.
"""
CPU_NOTE = """
Times of a CPU are of computing, so that other work on the machine does not count; arms are timed in turn. The process keeps the
memory that it frees, as a GPU's allocator does. The published arithmetic is that of the released code, with its loop over samples.
"""


def make_table(document: dict[str, Any]) -> str:
    """Return a run's conditions and findings as Markdown."""
    where = document["environment"]
    reduced = ", **reduced: nothing is measured, no goal judged**" if document["reduced"] else ""
    rows = document["rows"]
    counts = {
        status: sum(row["status"] == status for row in rows) for status in sorted({row["status"] for row in rows})
    }
    lines = [
        f"{where['device']} ({where['device_type']}), torch {where['torch']}, transformers {where['transformers']}, Python "
        f"{where['python']}, {where['threads']} CPU threads, {where['date'][:10]}{reduced}. "
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
    page = INTRODUCTION
    page += f"\n## GPU\n\n{make_table(runs['cuda'])}" if "cuda" in runs else NOT_RUN_YET
    return page + (f"\n## CPU\n{CPU_NOTE}\n{make_table(runs['cpu'])}" if "cpu" in runs else "")


if __name__ == "__main__":
    (HERE / "RESULTS.md").write_text(make_page(HERE / "results"))
