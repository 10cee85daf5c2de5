# Sourced by the scripts: where things are built and with what. Values that are set already stay.

ODRADEK_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ODRADEK_HOME
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/odradek/target}
export CCACHE_DIR=${CCACHE_DIR:-$HOME/.cache/odradek/ccache}
export ODRADEK_BIN=${ODRADEK_BIN:-$CARGO_TARGET_DIR/release/odradek}

# RocksDB is most of a first build: clang compiles it in two thirds of g++'s time, ccache keeps it for good.
if [ -z "${CC:-}" ] && [ -z "${CXX:-}" ] && command -v clang++ >/dev/null; then
  if command -v ccache >/dev/null; then
    export CC="ccache clang" CXX="ccache clang++"
  else
    export CC=clang CXX=clang++
  fi
fi

# A job of this build takes up to 1.5 GiB.
if [ -z "${CARGO_BUILD_JOBS:-}" ]; then
  by_memory=$(awk '/^MemAvailable/ { print int($2 / 1572864) }' /proc/meminfo)
  CARGO_BUILD_JOBS=$(nproc)
  [ "$by_memory" -ge "$CARGO_BUILD_JOBS" ] || CARGO_BUILD_JOBS=$((by_memory > 0 ? by_memory : 1))
  export CARGO_BUILD_JOBS
fi
