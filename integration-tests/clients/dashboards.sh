#!/usr/bin/env bash
# Runs every query of every dashboard and alert rule in grafana/ and names those without a result.
#   dashboards.sh URL                                     asks a Prometheus that already scrapes a cluster
#   dashboards.sh PORT,PORT,PORT [BOOTSTRAP]              starts Prometheus with grafana/prometheus.yml on these metrics
#                                                         ports of 127.0.0.1; with BOOTSTRAP it also puts load on
# may-be-empty.json names the metrics that may be without a value, with the reason.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -ge 1 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
setup_venv
PROMETHEUS=$("$CLIENTS_HOME/../../scripts/prometheus.sh")
export PROMETHEUS
exec "$VENV/bin/python" -B "$CLIENTS_HOME/python/dashboards.py" "$@"
