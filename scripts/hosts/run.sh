#!/usr/bin/env bash
# Train a host's public checkout, unmodified, with --vista: a few steps of its own entry script on a CPU, with tiny
# local models, and the exactness checks on its model classes; with --probe also `llava-vista probe` in that script, on
# what VISTA's training saved. Prints a one-line verdict.
#
#   scripts/hosts/run.sh NAME CHECKOUT [--work DIR] [--variant NAME] [--no-conformance] [--probe]
#   scripts/hosts/run.sh --list
#
# NAME is one of table.py. The environment (the host's transformers, torch for CPU, no torchvision) is made once, under
# .venvs/host-<transformers version>, or in $HOST_ENV. PYTHON chooses the interpreter (default python3). What is made
# for the run (models, images, placeholders for packages that are not installed, outputs) goes to a new directory under
# /tmp, or to DIR. Neither the checkout nor this repository is written to.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}

if [ "${1:-}" = --list ]; then
  exec "$python" "$here/table.py"
fi
if [ $# -lt 2 ]; then
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1
checkout=$(cd "$2" && pwd)
shift 2

# version of transformers, then what pip has to install
mapfile -t wanted < <("$python" "$here/table.py" --requirements "$name")
[ ${#wanted[@]} -gt 1 ] || exit 2
env=${HOST_ENV:-$repo/.venvs/host-${wanted[0]}}
stamp=$env/.made-for
if ! grep -qxF "${wanted[*]}" "$stamp" 2> /dev/null; then
  {
    echo "Installing ${wanted[*]:1} into $env (a minute or two)"
    [ -x "$env/bin/python" ] || "$python" -m venv "$env"
    pip="$env/bin/python -m pip install --quiet --disable-pip-version-check"
    $pip setuptools wheel "${wanted[@]:1}"
    # hosts import it when they save; built here, so that it finds the torch just installed
    $pip --no-build-isolation deepspeed==0.15.4 "numpy<2"
    $pip --no-deps --editable "$repo"
    printf '%s\n' "${wanted[*]}" >> "$stamp"
  } >&2
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "$env/bin/python" "$here/train.py" "$name" "$checkout" "$@"
