#!/usr/bin/env bash
# The examples against a cluster of three nodes; the arguments are names of examples.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/../examples/run.sh" setup "$@"
# shellcheck disable=SC2016 # expanded by the inner shell, which has the cluster's addresses
exec "$here/with-cluster.sh" 3 "${BASE_PORT:-45192}" bash -c 'exec "$0" "$BOOTSTRAP" "$@"' "$here/../examples/run.sh" "$@"
