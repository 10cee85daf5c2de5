# Every target is a thin cover of cargo or of a script in scripts/; those set up what is missing.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/odradek/target
export CCACHE_DIR ?= $(HOME)/.cache/odradek/ccache
export ODRADEK_BIN := $(CARGO_TARGET_DIR)/release/odradek
SHELL := /bin/bash
SEEDS ?= 1000

.PHONY: help build cluster test check sim interop examples applications chaos bench bench-smoke roll

help: ## shows the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

build: ## the release binary, with everything that it takes
	@scripts/setup.sh build
	@scripts/cargo.sh build --release --bin odradek

cluster: build ## a cluster of three nodes on this machine, until Ctrl-C
	@exec $(ODRADEK_BIN) cluster --nodes 3 $(ARGS)

test: ## sets up what is missing and runs all tests
	@scripts/setup.sh test
	@scripts/cargo.sh build --release --bin odradek
	@scripts/cargo.sh test --workspace

check: ## formatting, lints, tests, licences
	@scripts/setup.sh test
	@scripts/check.sh

sim: ## SEEDS (1000) seeds of the simulation
	@scripts/cargo.sh run --release -p odradek-sim -- --seeds $(SEEDS)

interop: build ## the clients of others against a cluster, as a table; CLIENTS="kcat sarama" for some
	@scripts/interop.sh $(CLIENTS)

examples: build ## the examples for application developers against a cluster; EXAMPLES="broadcast peak-shaving" for some
	@scripts/examples.sh $(EXAMPLES)

applications: build ## Streams, Connect, MirrorMaker 2 and transactions, most under kill -9; APPLICATIONS="copier mirror" for some
	@scripts/applications.sh $(APPLICATIONS) -- $(ARGS)

chaos: build ## kill -9 under load, every record checked; ARGS="--rounds 2 --modes leader" for less
	@scripts/chaos.sh $(ARGS)

bench: build ## Odradek beside Apache Kafka, into docs/benchmarks; ARGS="--rows 1,2 --pairs 1" for less, ARGS=soak for a long load
	@scripts/bench.sh $(ARGS)

bench-smoke: build ## every workload of the benchmark in small, on Odradek alone
	@scripts/bench.sh smoke $(ARGS)

roll: build ## an older revision, rolled to this one and back under load
	@scripts/roll.sh $(ARGS)
