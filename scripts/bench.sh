#!/usr/bin/env bash
# What a start, a topic and a record cost; the arguments are those of bench.py. SYSTEM=kafka measures Apache Kafka instead.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"
. "$here/../integration-tests/clients/lib.sh"
setup_venv
setup_jars
exec "$VENV/bin/python" -B "$CLIENTS_HOME/python/bench.py" --system "${SYSTEM:-odradek}" --binary "$ODRADEK_BIN" "$@"
