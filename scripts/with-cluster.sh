#!/usr/bin/env bash
# Starts a fresh cluster, runs a command with its bootstrap servers in $BOOTSTRAP, and stops the cluster.
#   with-cluster.sh NODES BASE_PORT COMMAND...
# Data and logs lie in a temporary folder ($CLUSTER_DIR for the command), shown only when something fails.
set -euo pipefail
. "$(dirname "$0")/env.sh"
nodes=$1 base_port=$2
shift 2
export CLUSTER_DIR
CLUSTER_DIR=$(mktemp -d -t odradek-cluster-XXXXXX)
cluster=

stop() {
  local status=$? pid
  trap - EXIT
  if [ -n "$cluster" ]; then
    kill -INT "$cluster" 2>/dev/null || true
    for _ in $(seq 200); do kill -0 "$cluster" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$cluster" 2>/dev/null || true
    # A cluster that had to be killed may leave its nodes.
    for pid in $(cat "$CLUSTER_DIR"/data/node-*/pid 2>/dev/null); do
      if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$CLUSTER_DIR"; then kill -KILL "$pid" 2>/dev/null || true; fi
    done
    wait "$cluster" 2>/dev/null || true
  fi
  if [ "$status" != 0 ]; then tail -n 20 "$CLUSTER_DIR/log" >&2 || true; fi
  rm -rf "$CLUSTER_DIR"
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Job control gives the cluster a process group of its own: Ctrl-C at the terminal is passed on once, by stop.
set -m
"$ODRADEK_BIN" cluster --nodes "$nodes" --data-dir "$CLUSTER_DIR/data" --base-port "$base_port" ${CLUSTER_ARGS:-} \
  >"$CLUSTER_DIR/log" 2>&1 </dev/null &
cluster=$!
set +m
for _ in $(seq 300); do
  kill -0 "$cluster" 2>/dev/null || { echo "the cluster ended while starting" >&2; exit 1; }
  # The line of the bootstrap servers comes when every node is ready.
  BOOTSTRAP=$(grep -i bootstrap "$CLUSTER_DIR/log" | grep -oE '(127\.0\.0\.1|localhost):[0-9]+(,(127\.0\.0\.1|localhost):[0-9]+)*' \
    | awk -F, -v n="$nodes" 'NF == n { print; exit }' || true)
  [ -z "$BOOTSTRAP" ] || break
  sleep 0.1
done
[ -n "$BOOTSTRAP" ] || { echo "the cluster printed no bootstrap servers within 30 s" >&2; exit 1; }
export BOOTSTRAP
"$@"
