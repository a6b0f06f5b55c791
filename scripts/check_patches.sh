#!/usr/bin/env bash
# Try `llava-vista patch` on the public repositories themselves, at the commits recorded in llava_vista/tools/patch/known/:
# a fresh checkout, one with Windows line endings, and one whose lines have moved. Each is applied, compared with
# patches/NAME.diff, applied again, checked, and reversed byte for byte.
#
#   scripts/check_patches.sh            clones from GitHub
#   scripts/check_patches.sh DIR        clones from DIR/NAME (llava, llava-next, tinyllava), or DIR/NAME.git
#   WRITE=1 scripts/check_patches.sh    writes patches/NAME.diff instead of comparing with it
#
# LLAVA_VISTA_COMMAND: how to run llava-vista (default: llava-vista on PATH, else that of .venvs/llava).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
source=${1:-}
if [ -n "${LLAVA_VISTA_COMMAND:-}" ]; then
  tool=$LLAVA_VISTA_COMMAND
else
  tool=$(command -v llava-vista || echo "$here/.venvs/llava/bin/llava-vista")
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }
field() { sed -n "s/^ *\"$2\": \"\([^\"]*\)\".*/\1/p" "$here/llava_vista/tools/patch/known/$1.json" | head -n 1; }
# Only the text files that a patch may touch: a partial clone may lack the rest.
bytes() { (cd "$1" && git ls-files -- '*.py' '*.md' '*.toml' | sort | xargs sha256sum); }

clone() { # NAME TARGET [git options]
  local name=$1 target=$2 url
  shift 2
  url=$(field "$name" url)
  for candidate in "$source/$name" "$source/$name.git"; do
    [ -n "$source" ] && [ -e "$candidate" ] && url=$candidate
  done
  git "$@" clone -q --no-checkout "$url" "$target"
  git "$@" -C "$target" sparse-checkout set --no-cone '*.py' '*.md' '*.toml' > /dev/null
  git "$@" -C "$target" checkout -q --detach "$(field "$name" commit)"
}

round() { # NAME CHECKOUT WHAT: apply, apply again, check, reverse
  local name=$1 repo=$2 what=$3
  bytes "$repo" > "$work/before"
  $tool patch apply --repo "$repo" "${options[@]}" > "$work/diff" 2> "$work/said" || fail "$name, $what: $(cat "$work/said")"
  bytes "$repo" > "$work/applied"
  ! cmp -s "$work/before" "$work/applied" || fail "$name, $what: nothing was changed"
  [ -z "$($tool patch apply --repo "$repo" "${options[@]}" 2> /dev/null)" ] || fail "$name, $what: applied twice"
  bytes "$repo" | cmp -s - "$work/applied" || fail "$name, $what: changed by the second apply"
  $tool patch check --repo "$repo" 2>&1 | grep -q "The change is in" || fail "$name, $what: check"
  $tool patch reverse --repo "$repo" "${options[@]}" 2> /dev/null || fail "$name, $what: reverse"
  bytes "$repo" | cmp -s - "$work/before" || fail "$name, $what: reverse did not restore every byte"
  [ -z "$(git -C "$repo" status --porcelain --untracked-files=all | grep -v '^ [MD]' || true)" ] || fail "$name, $what: files left over"
  echo "ok  $name at $(field "$name" commit | cut -c 1-7) ($(field "$name" date)): $what"
}

for name in llava llava-next tinyllava; do
  options=()
  clone "$name" "$work/$name"
  round "$name" "$work/$name" "fresh checkout"
  if [ -n "${WRITE:-}" ]; then
    cp "$work/diff" "$here/patches/$name.diff"
  else
    cmp "$work/diff" "$here/patches/$name.diff" || fail "$name: patches/$name.diff is not what the tool makes (WRITE=1)"
  fi
  git -C "$work/$name" apply --check "$here/patches/$name.diff" || fail "$name: git apply"

  clone "$name" "$work/$name-crlf" -c core.autocrlf=true
  git -C "$work/$name-crlf" config core.autocrlf true
  grep -q $'\r' "$work/$name-crlf/pyproject.toml" || fail "$name: the checkout has no CRLF"
  round "$name" "$work/$name-crlf" "CRLF checkout"

  # a fork: comments before every top-level definition move every line
  options=(--allow-dirty)
  find "$work/$name" -name '*.py' -path '*train*' -o -name arguments.py | while read -r file; do
    sed -i 's/^\(class\|def\|@dataclass\)/# of the fork\n\n&/' "$file"
  done
  round "$name" "$work/$name" "moved lines"
done
