#!/usr/bin/env bash
# A new user's first path, with nothing but the README: the demo, then what it prints to go on with, each step timed.
#
#   bash scripts/newcomer.sh [FOLDER]     FOLDER must not exist (default: a temporary one, deleted at the end)
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
if [ $# -gt 0 ]; then
  [ ! -e "$1" ] || { echo "$1 exists already" >&2; exit 1; }
  mkdir -p "$1" && folder=$(cd "$1" && pwd)
else
  folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT
fi
cd "$folder"

timed() {  # name, then the command; its output goes to NAME.log
  local name=$1 begin=$SECONDS code=0
  shift
  "$@" > "$name.log" 2>&1 || code=$?
  printf '%-8s %4d s  exit code %d  %s\n' "$name" $((SECONDS - begin)) "$code" "$*"
  # compare and doctor end with 1 where they have found something to say
  [ "$code" -le "${ALLOWED:-0}" ] || { tail -n 20 "$name.log" >&2; exit 1; }
}

timed install "$repo/scripts/make_env.sh" llava
timed demo bash "$repo/scripts/demo.sh" --output demo
PATH=$repo/$(tail -n 1 install.log)/bin:$PATH
ALLOWED=1 timed compare llava-vista compare demo/baseline/finetune demo/vista/finetune --output report.html
timed probe llava-vista probe demo/baseline/finetune demo/vista/finetune --data demo/data/heldout.json --images demo/data/images
ALLOWED=1 timed doctor llava-vista doctor demo/vista/finetune
for file in demo/curves.png demo/results.json report.html vista-probe/probe.json vista-probe/probe.png; do
  [ -s "$file" ] || { echo "$file was not written" >&2; exit 1; }
done
head -n 3 doctor.log
