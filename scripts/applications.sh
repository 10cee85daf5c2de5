#!/usr/bin/env bash
# Runs whole applications against a cluster whose brokers are killed, and counts what they did.
#   applications.sh [NAME...] [-- ARGUMENTS]     names: those of `all` below; arguments go to every harness that is named
#   applications.sh exactly-once [-- --runs 10]  exactly-once-demo and copier, ten times each, a line for each run
# SYSTEM=kafka runs them on Apache Kafka, which says whether a harness is right.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/env.sh"
. "$here/../integration-tests/clients/lib.sh"
tests=$here/../integration-tests

all=(exactly-once-demo copier clients librdkafka word-count streams-smoke streams-eos connect connect-at-least-once mirror)
names=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  if [ "$1" = exactly-once ]; then names+=(exactly-once-demo copier); else names+=("$1"); fi
  shift
done
[ $# = 0 ] || shift
[ ${#names[@]} -gt 0 ] || names=("${all[@]}")

harness() { # NAME: makes ready what the harness needs and sets `argv`
  case $1 in
    exactly-once-demo) setup_application_jars transactions; argv=("$tests/transactions/exactly_once_demo.py") ;;
    copier) argv=("$tests/transactions/copier.py") ;;
    clients) setup_transactions_franz; argv=("$tests/transactions/clients.py") ;;
    librdkafka) setup_librdkafka; argv=("$tests/transactions/librdkafka.py") ;;
    word-count) setup_application_jars streams; argv=("$tests/streams/word_count.py") ;;
    streams-smoke) setup_application_jars streams; argv=("$tests/streams/smoke.py") ;;
    streams-eos) setup_application_jars streams; argv=("$tests/streams/eos.py") ;;
    connect) setup_application_jars connect; argv=("$tests/connect/connect.py") ;;
    connect-at-least-once) setup_application_jars connect; argv=("$tests/connect/connect.py" --guarantee at_least_once) ;;
    mirror) setup_application_jars connect; argv=("$tests/mirror/mirror.py") ;;
    *) die "unknown application $1; there are: ${all[*]}" ;;
  esac
}

setup_venv
# The control, MirrorMaker's other side and the console tools are Apache Kafka's.
setup_jars
export PYTHONPATH=$CLIENTS_HOME/python PYTHONDONTWRITEBYTECODE=1
export TRANSACTIONS_JARS=$CLIENTS_CACHE/jars-transactions STREAMS_JARS=$CLIENTS_CACHE/jars-streams CONNECT_JARS=$CLIENTS_CACHE/jars-connect
status=0
for name in "${names[@]}"; do
  harness "$name"
  echo "applications: $name on ${SYSTEM:-odradek}" >&2
  "$VENV/bin/python" -B "${argv[@]}" --system "${SYSTEM:-odradek}" --binary "$ODRADEK_BIN" "$@" || status=1
done
exit "$status"
