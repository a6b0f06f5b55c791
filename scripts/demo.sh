#!/usr/bin/env bash
# The demo, from nothing: makes the LLaVA-1.5 environment if it is missing, then trains baseline and VISTA.
# Arguments go to `llava-vista demo` (see --help), for example: bash scripts/demo.sh --method cosine
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
env=$("$here/scripts/make_env.sh" llava)
exec "$here/$env/bin/llava-vista" demo "$@"
