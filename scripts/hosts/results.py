"""Write the runs of `run.sh` into RESULTS.md: ``python results.py FOLDER_OF_WORK_FOLDERS``. Standard library only."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from table import HOSTS

RESULTS = Path(__file__).with_name("RESULTS.md")
END = "<!-- end -->"
PASSED = " checks passed"


def cell(text: str) -> str:
    """Return a text for one line of Markdown, without paths of this machine."""
    return re.sub(r"(?<![\w.])/[\w.+/-]+/", "", " ".join(text.split()).replace("|", "/"))


def passed(kit: list[str]) -> str:
    """Return the classes that passed the kit, by adapter."""
    found: dict[str, list[str]] = {}
    for line in kit:
        match = re.match(r"(\w+) \(adapter ([\w-]+)\): .*" + PASSED, line)
        if match:
            found.setdefault(match[2], []).append(match[1].replace("ForCausalLM", ""))
    return "; ".join(f"`{adapter}`: {', '.join(names)}" for adapter, names in found.items())


def row(result: dict[str, Any]) -> str:
    training, kit = result.get("training"), result.get("kit", [])
    trained = "**failed**: " + cell(result.get("error", ""))[:300]
    if training:
        first, last = training["first"]["vista_loss"], training["last"]["vista_loss"]
        trained = f"{first:.4f} -> {last:.4f}; {training['keys']}"
    classes = passed(kit)
    if training and "error" in result:
        classes += " **failed**: " + cell(result["error"])[:300]
    name = f"{result['host']} {result['commit']}" if result["variant"] is None else f"the same, {result['variant']}"
    return (
        f"| {name} | {result['transformers']} | {result['entry']} | {trained} | {classes} | {result.get('probe', '')} |"
    )


def notes(result: dict[str, Any]) -> list[str]:
    """Classes that could not be run, and what was worked around outside of the host."""
    lines = [f"- {result['host']}: {cell(line)[:240]}" for line in result.get("kit", []) if PASSED not in line]
    if result["fixes"]:
        lines.append(f"- {result['host']}, worked around outside of the host: {'; '.join(result['fixes'])}")
    return lines


def table(results: list[dict[str, Any]]) -> str:
    order = [(name, variant) for name, host in HOSTS.items() for variant in (None, *host.variants)]
    results = sorted(results, key=lambda result: order.index((result["host"], result["variant"])))
    missing = [name for name in HOSTS if name not in {result["host"] for result in results}]
    return "\n".join(
        [
            "| repository, commit | transformers | entry script | vista_loss: first, last; saved keys | kit | probe |",
            "|---|---|---|---|---|---|",
            *map(row, results),
            "",
            *([f"Not run: {', '.join(missing)}.", ""] if missing else []),
            *dict.fromkeys(line for result in results for line in notes(result)),  # variants say the same
        ]
    )


def write_part(script: str, text: str) -> None:
    """Replace what a script has written into RESULTS.md."""
    begin = f"<!-- written by {script} -->"
    before, rest = RESULTS.read_text(encoding="utf-8").split(begin)
    RESULTS.write_text(f"{before}{begin}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    results = [json.loads(file.read_text(encoding="utf-8")) for file in Path(sys.argv[1]).glob("*/result.json")]
    write_part("results.py", table(results))


if __name__ == "__main__":
    main()
