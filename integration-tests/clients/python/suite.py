"""suite.py TESTS_FOLDER BOOTSTRAP: kafka-python's own integration tests on Apache Kafka, then on BOOTSTRAP.

Prints each test that passes on Kafka and does not on BOOTSTRAP; ends with 1 if there is one. The tests need one broker
(the first address): they create their topics with replication factor 1.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

import systems

HOME = pathlib.Path(__file__).resolve().parent.parent
LEFT_OUT = json.loads((HOME / "kafka-python-suite" / "left-out.json").read_text())
MODULES = ("test_admin_integration.py", "test_consumer_integration.py", "test_producer_integration.py")
LIMIT_S = 600


def run_tests(folder, bootstrap, label):
    """Outcome by test name."""
    report = folder / f"{label}.xml"
    argv = [sys.executable, "-B", "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(folder), "-p", "no:cacheprovider",
            "-W", "ignore", "--tb=short", "--show-capture=no", "--timeout=90", "--timeout-method=signal",
            f"--junit-xml={report}", *[str(folder / "test" / "integration" / m) for m in MODULES]]
    for name in LEFT_OUT:
        if "::" in name:
            argv.append(f"--deselect=test/integration/{name}")
    environment = dict(os.environ, KAFKA_VERSION=os.environ["KAFKA_VERSION"], KAFKA_ROOT=str(folder),
                       KAFKA_URI=f"kafka://{bootstrap.split(',')[0]}", PYTHONPATH=str(folder))
    log = folder / f"{label}.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
    if not report.exists():
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{label}: no report of the tests within {LIMIT_S} s\n{tail}")
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname').rsplit('.', 1)[-1]}.py::{case.get('name')}"
        kinds = {child.tag: child.get("message", "") for child in case}
        bad = next((kinds[k] for k in ("failure", "error") if k in kinds), None)
        if bad is not None:
            outcomes[name] = "failed: " + " ".join(bad.split())[:160]
        else:
            outcomes[name] = "skipped" if "skipped" in kinds else "passed"
    return outcomes


def reference(folder):
    with tempfile.TemporaryDirectory(prefix="odradek-suite-") as data:
        kafka = systems.ApacheKafka(data, int(os.environ.get("REFERENCE_PORT", "48092")), 1, ["num.partitions=4"])
        try:
            kafka.start()
            return run_tests(folder, kafka.bootstrap, "kafka")
        finally:
            kafka.stop()


def main(folder, bootstrap):
    there = reference(folder)
    here = run_tests(folder, bootstrap, "odradek")
    print("left out, because this version does not have it yet:")
    for name, reason in LEFT_OUT.items():
        print(f"  {name}: {reason}")
    worse = {n: here.get(n, "not run") for n, o in there.items() if o == "passed" and here.get(n) != "passed"}
    for label, outcomes in (("Apache Kafka", there), ("Odradek", here)):
        counts = {k: sum(o.startswith(k) for o in outcomes.values()) for k in ("passed", "failed", "skipped")}
        print(f"{label}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    for name, outcome in there.items():
        if outcome.startswith("failed"):
            print(f"  fails on Apache Kafka as well: {name}: {outcome}")
    print(f"pass on Apache Kafka and not here: {len(worse)}")
    for name, outcome in worse.items():
        print(f"  {name}: {outcome}")
    if not any(o == "passed" for o in there.values()):
        print("nothing passed on Apache Kafka: this run says nothing")
        return 1
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2]))
