#!/usr/bin/env bash
# The benchmark, with Apache Kafka beside Odradek where its jars can be had; without them Odradek is measured alone.
#   bench.sh [run | smoke | soak | calibrate | report] [FLAGS]     `run` if only flags are given; --help shows them
# Results of run and soak go to docs/benchmarks unless --out names another folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"
. "$here/../integration-tests/clients/lib.sh"

command=run
case ${1:-} in
  run | smoke | soak | calibrate | report) command=$1; shift ;;
esac
out=()
case $command in
  run | soak)
    out=(--out "$ODRADEK_HOME/docs/benchmarks")
    for argument in "$@"; do
      case $argument in --out | --out=* | --help) out=() ;; esac
    done
    # In a subshell, because what is missing ends it.
    (setup_jars) || note "Apache Kafka is left out"
    ;;
esac
"$here/cargo.sh" build -q --release -p odradek-bench
# The run's description names the command as a person typed it.
export ODRADEK_BENCH_COMMAND="make bench${*:+ ARGS=\"$*\"}"
exec "$CARGO_TARGET_DIR/release/odradek-bench" "$command" "${out[@]}" "$@"
