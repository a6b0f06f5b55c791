#!/usr/bin/env bash
# All checks, from nothing: makes the environments if they are missing, then lint, types, packaging and every test.
set -euo pipefail
cd "$(dirname "$0")/.."

# The DeepSpeed launcher asks numactl for the cores when its ranks are CPUs.
if ! command -v numactl > /dev/null; then
  as_root=$([ "$(id -u)" = 0 ] || echo sudo)
  { $as_root apt-get update -qq && $as_root apt-get install -y -qq numactl; } > /dev/null ||
    { echo "numactl is missing and could not be installed: install it with your system's package manager" >&2; exit 1; }
fi
# All three at once: an installation keeps less than one core busy.
scripts/make_env.sh older > /dev/null & older_made=$!
scripts/make_env.sh latest > /dev/null & latest_made=$!
llava=$(scripts/make_env.sh llava)
scripts/make_env.sh lmms-eval > /dev/null  # the smoke test evaluates with it
wait "$older_made"
wait "$latest_made"
older=$(scripts/make_env.sh older)
latest=$(scripts/make_env.sh latest)

export OMP_NUM_THREADS=1  # two test processes on two cores; the models are tiny

step() { printf '\n== %s ==\n' "$*"; }

step "lint"
"$llava/bin/ruff" check .
"$llava/bin/ruff" format --check .
for script in scripts/*.sh scripts/*/*.sh scripts/smoke/LLaVA/scripts/v1_5/*.sh llava_vista/tools/demo/launch/*.sh; do
  bash -n "$script"
done

step "import contract: imports point down, a tool imports no other tool"
"$llava/bin/lint-imports" --no-cache

step "types"
"$llava/bin/mypy"

step "packaging: the wheel carries the start-up hook and the demo's scripts, and works from a wheel"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$llava/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$wheels" .
"$llava/bin/python" -m venv "$wheels/env"
"$wheels/env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$wheels"/*.whl
(
  cd "$wheels"
  LLAVA_VISTA=1 env/bin/python -c "import sys; sys.exit('llava_vista.hooks' not in sys.modules)"
  env/bin/python -c "import sys; sys.exit('llava_vista' in sys.modules)"
  env/bin/python -c "
import pathlib, llava_vista
launch = pathlib.Path(llava_vista.__file__).parent / 'tools' / 'demo' / 'launch'
missing = [name for name in ('pretrain.sh', 'finetune.sh') if not (launch / name).is_file()]
raise SystemExit(f'missing in the wheel: {missing}' if missing else 0)"
  # reproduce runs where nothing but Python is installed
  { env/bin/llava-vista reproduce train --output runs --dry-run || true; } | grep -q "problems found"
  env/bin/python -m pip uninstall --quiet --yes llava-vista
  LLAVA_VISTA=1 env/bin/python -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('llava_vista') is not None)"
)

step "tests, newest transformers"
"$latest/bin/python" -m pytest -q -n 2 --dist loadfile --environment latest

step "tests, transformers 4.44"
"$older/bin/python" -m pytest -q -n 2 --environment older

step "tests, LLaVA-1.5 with transformers 4.37.2"
"$llava/bin/python" -m pytest -q -n 2 --dist loadfile --environment llava

step "tests, LLaVA-1.5 on two ranks (alone: the ranks need both cores)"
"$llava/bin/python" -m pytest -q --environment llava-ranks
