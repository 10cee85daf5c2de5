#!/usr/bin/env bash
# The interop table on a three-node cluster, then kafka-python's own tests on one node beside Apache Kafka.
#   interop.sh [NAME...]      with names: only those clients; "suite" is kafka-python's own tests
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
clients=$here/../integration-tests/clients

names=() suite=$([ $# = 0 ] && echo yes || echo no)
for name in "$@"; do
  if [ "$name" = suite ]; then suite=yes; else names+=("$name"); fi
done
status=0
if [ $# = 0 ] || [ ${#names[@]} -gt 0 ]; then
  "$clients/run.sh" setup "${names[@]}"
  "$here/with-cluster.sh" 3 "${BASE_PORT:-45092}" bash -c 'exec "$0" "$BOOTSTRAP" "$@"' "$clients/run.sh" "${names[@]}" || status=1
fi
if [ "$suite" = yes ]; then
  echo
  CLUSTER_ARGS="--override num.partitions=4" "$here/with-cluster.sh" 1 "${BASE_PORT:-45092}" \
    bash -c 'exec "$0" "$BOOTSTRAP"' "$clients/kafka-python-suite.sh" || status=1
fi
exit "$status"
