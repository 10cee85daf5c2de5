#!/usr/bin/env bash
# Runs the examples against a running cluster and prints what each proved.
#   run.sh BOOTSTRAP [NAME...]    names are the folders here
#   run.sh setup [NAME...]        only fetches what they need and builds them
# Each is copied to $EXAMPLES_CACHE first and built there with the usual tool of its language, so it needs nothing of this
# repository. Ends with 1 unless every example ends with 0.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../integration-tests/clients/lib.sh"
cache=${EXAMPLES_CACHE:-$CLIENTS_CACHE/examples}
limit=${EXAMPLE_TIMEOUT:-240}
mapfile -t all < <(cd "$here" && for readme in */README.md; do dirname "$readme"; done)

[ $# -ge 1 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
bootstrap=$1
shift
names=("$@")
[ ${#names[@]} -gt 0 ] || names=("${all[@]}")

# The language of an example is that of the file that names what it needs.
language() { # NAME
  if [ -e "$here/$1/requirements.txt" ]; then echo Python
  elif [ -e "$here/$1/go.mod" ]; then echo Go
  elif [ -e "$here/$1/package.json" ]; then echo JavaScript
  elif [ -e "$here/$1/pom.xml" ]; then echo Java
  else die "unknown example $1; there are: ${all[*]}"
  fi
}

setup() { # NAME
  local name=$1 work=$cache/$1 speaks files
  speaks=$(language "$name")
  mapfile -t files < <(find "$here/$name" -name venv -prune -o -type f -print)
  if fresh "$work/.ready" "${files[@]}"; then return; fi
  note "building the example $name"
  rm -rf "$work"
  mkdir -p "$cache"
  cp -R "$here/$name" "$work"
  # One that somebody made there, as the README says, would install into itself.
  rm -rf "$work/venv"
  "build_$speaks" "$work"
  touch "$work/.ready"
}

build_Python() {
  make_venv "$1/venv"
  "$1/venv/bin/pip" install -q -r "$1/requirements.txt"
}

build_Go() {
  setup_go_toolchain
  (cd "$1" && go build -o demo .)
}

build_JavaScript() {
  need node nodejs
  need npm npm
  (cd "$1" && npm ci --silent --no-audit --no-fund)
}

build_Java() {
  need javac default-jdk-headless
  need mvn maven
  (cd "$1" && mvn -q -B package)
}

run() { # NAME
  local work=$cache/$1
  cd "$work"
  case $(language "$1") in
    Python) exec "$work/venv/bin/python" -B demo.py ;;
    Go) exec "$work/demo" ;;
    JavaScript) exec node demo.js ;;
    Java) exec java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "target/classes:target/libs/*" Demo ;;
  esac
}

for name in "${names[@]}"; do setup "$name"; done
[ "$bootstrap" != setup ] || exit 0

export BOOTSTRAP_SERVERS=$bootstrap
passed=0 failed=0 lines=()
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export -f run language die note
export here cache
for name in "${names[@]}"; do
  note "$name"
  status=0
  # shellcheck disable=SC2016 # the inner shell has the name as its first argument
  timeout -k 10 "$limit" bash -c 'set -euo pipefail; run "$1"' run "$name" >"$work/$name.out" 2>"$work/$name.err" </dev/null || status=$?
  proved=$(sed -n 's/^proved: //p' "$work/$name.out")
  if [ "$status" = 0 ] && [ -n "$proved" ]; then
    passed=$((passed + 1))
    lines+=("$(printf '%-22s  %-10s  ok      %s' "$name" "$(language "$name")" "$proved")")
  else
    failed=$((failed + 1))
    lines+=("$(printf '%-22s  %-10s  FAILED  exit code %s' "$name" "$(language "$name")" "$status")")
    tail -n 30 "$work/$name.out" "$work/$name.err" >&2
  fi
done
printf '%s\n' "${lines[@]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
