#!/usr/bin/env bash
# Runs the standard clients against a running cluster and prints what works.
#   run.sh BOOTSTRAP [NAME...]      names: kcat confluent-kafka kafka-python kafka-tools sarama franz-go rdkafka kafkajs
#   run.sh setup [NAME...]          only fetches and builds them; here "jars" is Apache Kafka's jars alone
# Each client creates, lists and describes a topic of 3 partitions with replication factor 3, produces COUNT (10,000)
# keyed records with acks=all and reads them in a group of two members. Ends with 1 unless every verdict is "ok".
set -euo pipefail
. "$(dirname "$0")/lib.sh"

all=(kcat confluent-kafka kafka-python kafka-tools sarama franz-go rdkafka kafkajs)
[ $# -ge 1 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
bootstrap=$1
shift
names=("$@")
[ ${#names[@]} -gt 0 ] || names=("${all[@]}")
count=${COUNT:-10000}
limit=${CLIENT_TIMEOUT:-240}

setup() {
  case $1 in
    kcat) setup_kcat ;;
    confluent-kafka | kafka-python) setup_venv ;;
    kafka-tools) setup_venv && setup_jars ;;
    sarama) setup_go go-sarama ;;
    franz-go) setup_go go-franz ;;
    rdkafka) setup_rdkafka ;;
    kafkajs) setup_kafkajs ;;
    jars) setup_jars ;;
    *) die "unknown client $1; there are: ${all[*]}" ;;
  esac
}

program() { # NAME: sets `argv`
  local py=("$VENV/bin/python" -B)
  case $1 in
    kcat) argv=("${py[@]}" "$CLIENTS_HOME/python/kcat.py") ;;
    confluent-kafka) argv=("${py[@]}" "$CLIENTS_HOME/python/confluent.py") ;;
    kafka-python) argv=("${py[@]}" "$CLIENTS_HOME/python/kafka_python.py") ;;
    kafka-tools) argv=("${py[@]}" "$CLIENTS_HOME/python/kafka_tools.py") ;;
    sarama) argv=("$CLIENTS_CACHE/go-sarama") ;;
    franz-go) argv=("$CLIENTS_CACHE/go-franz") ;;
    rdkafka) argv=("$CLIENTS_CACHE/rdkafka-target/release/odradek-interop-rdkafka") ;;
    kafkajs) argv=(node "$CLIENTS_HOME/kafkajs/main.js") ;;
  esac
}

for name in "${names[@]}"; do setup "$name"; done
[ "$bootstrap" != setup ] || exit 0
setup_venv

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run=$(date +%s)
for name in "${names[@]}"; do
  topic=interop-$name-$run
  note "$name"
  # kcat has no create, so its topic is made for it.
  [ "$name" != kcat ] || timeout 60 "$VENV/bin/python" -B "$CLIENTS_HOME/python/create_topic.py" "$bootstrap" "$topic" \
    || note "the topic of $name was not made"
  program "$name"
  status=0
  timeout -k 10 "$limit" "${argv[@]}" "$bootstrap" "$topic" "group-$name-$run" "$count" \
    >"$work/$name.json" 2>"$work/$name.log" </dev/null || status=$?
  echo "$status" >"$work/$name.status"
  if [ "$status" != 0 ]; then tail -n 15 "$work/$name.log" >&2; fi
done
"$VENV/bin/python" -B "$CLIENTS_HOME/python/table.py" "$work" "${names[@]}"
