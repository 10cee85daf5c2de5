#!/usr/bin/env bash
# kill -9 under load; the arguments are those of chaos.py. SYSTEM=kafka runs it on Apache Kafka instead.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"
. "$here/../integration-tests/clients/lib.sh"
setup_venv
if [ "${SYSTEM:-odradek}" = kafka ]; then setup_jars; fi
exec "$VENV/bin/python" -B "$CLIENTS_HOME/python/chaos.py" --system "${SYSTEM:-odradek}" --binary "$ODRADEK_BIN" "$@"
