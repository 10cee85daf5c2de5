"""librdkafka's own tests of transactions, idempotence and read_committed, against the brokers of one cluster or both.

    librdkafka.py [--system kafka|odradek] [--tests 0098,0103]

With --system odradek the tests run on Apache Kafka first: what passes there must pass here. A test that fails there too, or
that its authors skip, says nothing and is shown as such.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

import applications

# Consumers of transactions, producers of them, idempotent producers, aborted batches, and offsets that meet transactions.
TESTS = ("0001", "0011", "0012", "0030", "0031", "0061", "0076", "0086", "0090", "0092", "0094", "0098", "0099", "0103", "0107", "0113",
         "0122", "0125", "0127", "0129", "0130", "0137", "0140")
TEST_SECONDS = 420
# As the cluster of its authors' is: some tests take a topic that is made for them and write to its second partition.
OVERRIDES = ("num.partitions=4",)
VERSION = "4.0.0"


def verdict_of(program, code):
    said = program.said()
    if "SKIPPED" in said and " PASSED" not in said:
        return "skipped"
    return "passed" if code == 0 and " PASSED" in said else "failed"


def run_test(stage, test):
    """One test in a process of its own, with its name and how it ended."""
    home = pathlib.Path(os.environ["CLIENTS_CACHE"]) / "librdkafka-tests"
    configuration = stage.folder / "test.conf"
    configuration.write_text(f"metadata.broker.list={stage.bootstrap}\ntest.timeout.multiplier=2\n")
    environment = {"TESTS": test, "RDKAFKA_TEST_CONF": str(configuration), "KAFKA_PATH": str(home / "kafka"), "BROKERS": stage.bootstrap,
                   "TEST_KAFKA_VERSION": VERSION, "LD_LIBRARY_PATH": f"{home}/src:{home}/src-cpp"}
    program = stage.start(f"test-{test}", [str(home / "tests" / "test-runner"), "-p1", "-Q", "-L"], env=environment,
                          cwd=home / "tests")
    began = time.monotonic()
    try:
        code = program.wait(TEST_SECONDS)
    except subprocess.TimeoutExpired:
        program.kill()
        code = "no end"
    return verdict_of(program, code), round(time.monotonic() - began), program


def on(settings, system, base_port, folder, tests):
    settings = argparse.Namespace(**{**vars(settings), "system": system, "base_port": base_port, "every": 0,
                                     "override": [*OVERRIDES, *settings.override]})
    found = {}
    with applications.Stage(settings, folder) as stage:
        for test in tests:
            verdict, seconds, program = run_test(stage, test)
            found[test] = verdict
            print(f"  {system} {test} {verdict} after {seconds} s", flush=True)
            if verdict == "failed":
                print(program.said()[-1500:], file=sys.stderr)
    return found


def run(settings, folder):
    tests = settings.tests.split(",") if settings.tests else TESTS
    if settings.no_control:
        here = on(settings, settings.system, settings.base_port, folder / settings.system, tests)
        return [{"harness": "librdkafka", "test": test, "here": verdict, "verdict": "FAILED" if verdict == "failed" else "ok"}
                for test, verdict in here.items()]
    kafka = on(settings, "kafka", settings.base_port + 100, folder / "kafka", tests)
    if settings.system == "kafka":
        return [{"harness": "librdkafka", "test": test, "Apache Kafka": there, "verdict": "ok"} for test, there in kafka.items()]
    here = on(settings, settings.system, settings.base_port, folder / settings.system, [t for t in tests if kafka[t] == "passed"])
    return [{"harness": "librdkafka", "test": test, "Apache Kafka": there, "here": here.get(test, "not run"),
             "verdict": "ok" if there != "passed" or here[test] == "passed" else "FAILED"} for test, there in kafka.items()]


def settings_from(argv):
    flags = applications.parser("librdkafka's tests of transactions")
    flags.add_argument("--no-control", action="store_true", help="leave Apache Kafka out: every test that fails counts")
    flags.add_argument("--tests", help="four digits each, with commas; default: those that transactions touch")
    return flags.parse_args(argv)


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
