#!/usr/bin/env bash
# Everything that must hold before a change is handed in.
set -euo pipefail
here=$(dirname "$0")
. "$here/env.sh"
cd "$ODRADEK_HOME"

cargo fmt --all --check
"$here/cargo.sh" clippy --workspace --all-targets -- -D warnings
"$here/cargo.sh" build --release --bin odradek
"$here/cargo.sh" test --workspace
if command -v cargo-deny >/dev/null; then
  cargo deny check
else
  echo "check: cargo-deny is not installed, so licences and advisories were not checked (cargo install cargo-deny)" >&2
fi
