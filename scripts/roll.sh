#!/usr/bin/env bash
# The upgrade test: builds an older revision beside this one and rolls a cluster under load from it to this one and back.
#   roll.sh [--from REVISION] [arguments of roll.py]
# The older revision is the last tag; without a tag the commit 20 before this one, or if that one cannot roll or be built, the
# next one after it that can.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"
. "$here/../integration-tests/clients/lib.sh"
commits_back=20

if [ "${SYSTEM:-odradek}" = kafka ]; then
  setup_venv
  setup_jars
  exec "$VENV/bin/python" -B "$CLIENTS_HOME/python/roll.py" --system kafka "$@"
fi

# Revisions to try, one a line, the best first.
candidates() {
  local tag
  if tag=$(git -C "$ODRADEK_HOME" describe --tags --abbrev=0 HEAD~1 2>/dev/null); then
    echo "$tag"
    return
  fi
  # Oldest first; a commit without the command in its tree is not one.
  git -C "$ODRADEK_HOME" rev-list --first-parent --max-count="$commits_back" HEAD~1 | tac | while read -r commit; do
    if git -C "$ODRADEK_HOME" cat-file -e "$commit:cli/src/roll.rs" 2>/dev/null; then echo "$commit"; fi
  done
}

# Builds a revision in a worktree, with a target folder of its own: it must not make this revision build again.
build() { # REVISION PROGRAM
  local worktree=$cache/worktree status=0
  git -C "$ODRADEK_HOME" worktree remove --force "$worktree" 2>/dev/null || true
  git -C "$ODRADEK_HOME" worktree prune
  git -C "$ODRADEK_HOME" worktree add --detach "$worktree" "$1" >/dev/null 2>&1
  echo "roll: building $(git -C "$worktree" log -1 --format='%h, %s')" >&2
  (cd "$worktree" && CARGO_TARGET_DIR=$cache/target cargo build --release --locked --bin odradek) || status=$?
  git -C "$ODRADEK_HOME" worktree remove --force "$worktree"
  [ "$status" = 0 ] || return "$status"
  mkdir -p "$(dirname "$2")"
  cp "$cache/target/release/odradek" "$2"
}

cache=$HOME/.cache/odradek/roll
wanted=
if [ "${1:-}" = --from ]; then
  wanted=$2
  shift 2
fi
revision=
for candidate in ${wanted:-$(candidates)}; do
  candidate=$(git -C "$ODRADEK_HOME" rev-parse --short "$candidate^{commit}")
  old=$cache/programs/$candidate/odradek
  if [ -x "$old" ] || build "$candidate" "$old"; then
    revision=$candidate
    break
  fi
  echo "roll: $candidate cannot be built" >&2
done
[ -n "$revision" ] || { echo "roll: there is no tag and no earlier commit that can roll" >&2; exit 1; }
# One older program is enough to keep.
find "$cache/programs" -mindepth 1 -maxdepth 1 ! -name "$revision" -exec rm -rf {} +
setup_venv
echo "roll: from $revision to this revision ($(git -C "$ODRADEK_HOME" rev-parse --short HEAD)) and back"
"$VENV/bin/python" -B "$CLIENTS_HOME/python/roll.py" --from "$old" --to "$ODRADEK_BIN" "$@"
