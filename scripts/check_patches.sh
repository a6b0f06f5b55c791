#!/usr/bin/env bash
# Prove patches/NAME.diff on fresh checkouts: it applies, the patched host's own test passes, and the reverse restores every byte.
# A second checkout has Windows line endings, a third one other lines around the changes, as a fork has.
#
#   scripts/check_patches.sh NAME=REPOSITORY ...     NAME: llava, llava-next or tinyllava
#
# REPOSITORY is what git can clone (a folder or a URL); its HEAD is taken. PYTHON runs the host's test and needs the host's
# dependencies (default: that of .venvs/llava, which has LLaVA's).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$here/.venvs/llava/bin/python}
[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }

prove() { # WHAT CHECKOUT [git apply's options]: apply, test, reverse
  local what=$1 repo=$2 said
  shift 2
  cp -r "$repo" "$work/before"
  git -C "$repo" apply --check "$@" "$diff" || fail "$what: git apply --check"
  git -C "$repo" apply "$@" "$diff"
  said=$(cd "$repo" && PYTHONPATH=$repo:$here HF_HUB_OFFLINE=1 "$python" tests/test_vista.py 2>&1) || fail "$what: tests/test_vista.py: $said"
  find "$repo" -name __pycache__ -prune -exec rm -rf {} +
  git -C "$repo" apply --check -R "$@" "$diff" || fail "$what: git apply --check -R"
  git -C "$repo" apply -R "$@" "$diff"
  diff -r --exclude .git "$work/before" "$repo" > /dev/null || fail "$what: the reverse did not restore every byte"
  rm -rf "$work/before" "$repo"
  echo "ok  $what"
}

for argument in "$@"; do
  name=${argument%%=*}
  diff=$here/patches/$name.diff
  [ -f "$diff" ] && [ "$name" != "$argument" ] || fail "$argument: expected NAME=REPOSITORY, with a patches/NAME.diff"
  # only what a patch touches or its test imports: repositories have large pictures
  git clone -q --no-checkout "${argument#*=}" "$work/$name"
  git -C "$work/$name" sparse-checkout set --no-cone '*.py' '*.md' '*.json' > /dev/null
  git -C "$work/$name" checkout -q --detach HEAD
  commit=$(git -C "$work/$name" log -1 --format='%h (%cs)')
  cp -r "$work/$name" "$work/crlf"
  cp -r "$work/$name" "$work/fork"

  prove "$name at $commit: fresh checkout" "$work/$name"

  git -C "$work/crlf" ls-files -- '*.py' '*.md' | (cd "$work/crlf" && xargs sed -i 's/\r*$/\r/')
  prove "$name at $commit: Windows line endings" "$work/crlf" --ignore-whitespace

  grep '^--- a/' "$diff" | cut -c 7- | while read -r file; do
    sed -i '1i # of the fork\n' "$work/fork/$file"
  done
  prove "$name at $commit: moved lines" "$work/fork"
done
