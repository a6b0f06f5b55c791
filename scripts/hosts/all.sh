#!/usr/bin/env bash
# Run `run.sh --probe` on every host and variant whose checkout is CHECKOUTS/NAME, and write RESULTS.md.
#
#   scripts/hosts/all.sh CHECKOUTS WORK
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
mkdir -p "$2"
"$python" "$here/table.py" --runs | while read -r name variant; do
  [ -d "$1/$name" ] || continue
  work=$2/$name${variant:+-$variant}
  mkdir -p "$work"
  bash "$here/run.sh" "$name" "$1/$name" --work "$work" --probe ${variant:+--variant "$variant"} < /dev/null > "$work/verdict.txt" 2>&1
  tail -n 1 "$work/verdict.txt"
done
"$python" "$here/results.py" "$2"
