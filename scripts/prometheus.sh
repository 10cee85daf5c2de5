#!/usr/bin/env bash
# Prints the path of a `prometheus` program: the installed one, else Debian's package unpacked into the cache, because
# installing that package would start a service.
set -euo pipefail
if command -v prometheus; then exit 0; fi
cache=$HOME/.cache/odradek/prometheus
mkdir -p "$(dirname "$cache")"
# Whoever comes second waits until the first has all of it.
exec 9>"$cache.lock"
flock 9
if [ ! -x "$cache/usr/bin/prometheus" ]; then
  rm -rf "$cache" "$cache.new"
  mkdir -p "$cache.new"
  cd "$cache.new"
  echo "setup: unpacking Debian's prometheus" >&2
  apt-get download -q prometheus >/dev/null 2>&1 || {
    [ "$(id -u)" = 0 ] && apt-get update -q >/dev/null && apt-get download -q prometheus >/dev/null 2>&1
  } || { echo "setup: prometheus cannot be fetched; run: sudo apt-get install -y prometheus" >&2; exit 1; }
  dpkg-deb -x prometheus_*.deb .
  rm -f prometheus_*.deb
  mv "$cache.new" "$cache"
fi
echo "$cache/usr/bin/prometheus"
