#!/usr/bin/env bash
# The upgrade test: builds an older revision beside this one and rolls a cluster under load from it to this one and back.
#   roll.sh [--from REVISION] [arguments of roll.py]
# The older revision is the last tag, else the newest earlier commit that changed the program and can roll.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"
. "$here/../integration-tests/clients/lib.sh"

if [ "${SYSTEM:-odradek}" = kafka ]; then
  setup_venv
  setup_jars
  exec "$VENV/bin/python" -B "$CLIENTS_HOME/python/roll.py" --system kafka "$@"
fi

revision=
if [ "${1:-}" = --from ]; then
  revision=$2
  shift 2
fi
[ -n "$revision" ] || revision=$(git -C "$ODRADEK_HOME" describe --tags --abbrev=0 HEAD 2>/dev/null || true)
if [ -z "$revision" ]; then
  for commit in $(git -C "$ODRADEK_HOME" rev-list HEAD~1 -- '*.rs' Cargo.lock); do
    # The command is in the tree, and so was every part that it needs.
    if git -C "$ODRADEK_HOME" cat-file -e "$commit:cli/src/roll.rs" 2>/dev/null; then
      revision=$commit
      break
    fi
  done
fi
[ -n "$revision" ] || { echo "roll: there is no tag and no earlier commit that can roll" >&2; exit 1; }
revision=$(git -C "$ODRADEK_HOME" rev-parse --short "$revision^{commit}")

cache=$HOME/.cache/odradek/roll
old=$cache/$revision/odradek
if [ ! -x "$old" ]; then
  echo "roll: building $revision" >&2
  mkdir -p "$cache/$revision"
  git -C "$ODRADEK_HOME" worktree prune
  git -C "$ODRADEK_HOME" worktree add --detach --force "$cache/worktree" "$revision" >/dev/null
  trap 'git -C "$ODRADEK_HOME" worktree remove --force "$cache/worktree"' EXIT
  # A target folder of its own: the older revision must not make this one build again.
  (cd "$cache/worktree" && CARGO_TARGET_DIR=$cache/target cargo build --release --locked --bin odradek)
  cp "$cache/target/release/odradek" "$old"
fi
setup_venv
echo "roll: $revision -> this revision -> $revision"
"$VENV/bin/python" -B "$CLIENTS_HOME/python/roll.py" --from "$old" --to "$ODRADEK_BIN" "$@"
