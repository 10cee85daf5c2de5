#!/usr/bin/env bash
# cargo with this repository's environment. While RocksDB compiles, which is once and long, it says how far that is.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ODRADEK_HOME"

# RocksDB is about this many C++ files.
files=343
folders="$CARGO_TARGET_DIR/*/build/librocksdb-sys-*"

if ! compgen -G "$folders/out/librocksdb.a" >/dev/null; then
  echo "build: RocksDB is compiled now: about 15 minutes on two cores, this first time only" >&2
  (
    trap 'kill "$nap" 2>/dev/null; exit 0' TERM
    while true; do
      sleep 30 &
      nap=$!
      wait "$nap"
      compiled=$(find "$CARGO_TARGET_DIR" -path '*/librocksdb-sys-*/out/*' -name '*.o' 2>/dev/null | wc -l || true)
      [ "$compiled" = 0 ] || echo "build: RocksDB, $compiled of about $files files" >&2
      ! compgen -G "$folders/out/librocksdb.a" >/dev/null || exit 0
    done
  ) &
  progress=$!
  trap 'kill "$progress" 2>/dev/null || true' EXIT
fi
cargo "$@"
