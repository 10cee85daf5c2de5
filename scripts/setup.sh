#!/usr/bin/env bash
# Makes the machine ready: Debian packages where this user may install them, else the one line to run.
#   setup.sh build     what a build takes
#   setup.sh test      also what the tests run beside Odradek: Apache Kafka's jars, Prometheus, the examples
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
want() { # COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

want g++ build-essential
want make build-essential
want clang clang
want ccache ccache
want protoc protobuf-compiler
want pkg-config pkg-config
compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null || missing+=(libclang-dev)
if [ "${1:-build}" = test ]; then
  want java default-jre-headless
  want mvn maven
  want javac default-jdk-headless
  want node nodejs
  want npm npm
  want python3 python3
  want kcat kcat
  want valgrind valgrind
  want strace strace
fi

if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "setup: this machine has no apt-get; install what these Debian packages hold: ${missing[*]}" >&2
    exit 1
  elif [ "$(id -u)" != 0 ]; then
    echo "setup: packages are missing. Run this, then the same make again:" >&2
    echo "  sudo apt-get install -y ${missing[*]}" >&2
    exit 1
  fi
  echo "setup: installing ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null 2>&1 \
    || { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; }
fi
if ! command -v cargo >/dev/null; then
  echo "setup: there is no cargo; install a Rust toolchain (rustup.rs), version $(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)" >&2
  exit 1
fi

if [ "${1:-build}" = test ]; then
  integration-tests/clients/run.sh setup jars
  examples/run.sh setup
  scripts/prometheus.sh >/dev/null
fi
