#!/usr/bin/env bash
# kafka-python's own integration tests, from its source distribution: on Apache Kafka, which this starts and stops, and
# on a running cluster. Prints what passes there and not here.
#   kafka-python-suite.sh BOOTSTRAP
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# = 1 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
setup_venv
setup_jars

tests=$CLIENTS_CACHE/kafka-python-$KAFKA_PYTHON_VERSION
if ! fresh "$tests/.ready" "$CLIENTS_HOME/kafka-python-suite/service.py"; then
  note "python: the source distribution of kafka-python $KAFKA_PYTHON_VERSION"
  rm -rf "$tests"
  mkdir -p "$tests"
  "$VENV/bin/pip" download -q --no-deps --no-binary :all: -d "$tests" "kafka-python==$KAFKA_PYTHON_VERSION"
  tar -xzf "$tests"/kafka_python-*.tar.gz -C "$tests" --strip-components=1 --wildcards '*/test'
  touch "$tests/test/__init__.py"
  cp "$CLIENTS_HOME/kafka-python-suite/service.py" "$tests/test/service.py"
  touch "$tests/.ready"
fi
exec "$VENV/bin/python" -B "$CLIENTS_HOME/python/suite.py" "$tests" "$1"
