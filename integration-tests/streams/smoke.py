"""StreamsSmokeTest of kafka-streams' test jar: every operator, verified by its own driver, while each broker is killed.

    smoke.py [--system kafka|odradek] [--guarantee at_least_once|exactly_once_v2]

The driver produces for 90 s and then verifies all outputs. Meanwhile one processor is killed with kill -9 and another takes
its place, and every broker is killed and started again at least once.
"""

import os
import sys
import time

import applications

MAIN = "org.apache.kafka.streams.tests.StreamsSmokeTest"
TOPICS = ("data", "fk", "echo", "max", "min", "min-suppressed", "min-raw", "dif", "sum", "sws-raw", "sws-suppressed", "cnt",
          "avg", "tagg", "wcnt")
PARTITIONS = 5
DRIVER_SECONDS = 600


def properties(stage, settings, name):
    path = stage.folder / f"{name}.properties"
    path.write_text("\n".join([
        f"bootstrap.servers={stage.bootstrap}", f"processing.guarantee={settings.guarantee}", f"state.dir={stage.folder}/state-{name}",
        "num.stream.threads=2", "replication.factor=3", "num.standby.replicas=1", "commit.interval.ms=500",
        "auto.offset.reset=earliest", "acks=all", "consumer.session.timeout.ms=10000",
    ]) + "\n")
    return str(path)


def processor(stage, settings, name):
    return stage.java(name, os.environ["STREAMS_JARS"], MAIN, properties(stage, settings, name), "process", heap="384m")


def run(settings, folder):
    with applications.Stage(settings, folder) as stage:
        print(f"seed {stage.seed}")
        began = time.monotonic()
        stage.create(*TOPICS, partitions=PARTITIONS)
        first = processor(stage, settings, "first")
        first.wait_for("REBALANCING -> RUNNING", 120)
        driver = stage.java("driver", os.environ["STREAMS_JARS"], MAIN, properties(stage, settings, "driver"), "run")
        with stage.killing(first=5.0):
            first.wait_for("processed", 120)
            second = processor(stage, settings, "second")
            second.wait_for("processed", 180)
            first.kill()
            third = processor(stage, settings, "third")
            third.wait_for("processed", 180)
            driver.wait(DRIVER_SECONDS)
        closed = [program.stop(120) for program in (second, third)]
        said = driver.said()
        verdict = "ok"
        if "\nSUCCESS" not in said:
            verdict = "FAILED"
        elif settings.every and stage.kills < stage.system.count:
            verdict = f"FAILED: only {stage.kills} brokers were killed"
        elif any(program.count("SMOKE-TEST-CLIENT-EXCEPTION") for program in (second, third)):
            verdict = "FAILED: a processor had an exception"
        if verdict != "ok":
            stage.show_logs()
        processed = [line.split("=")[1] for line in said.splitlines() if line.startswith("recordProcessed=")]
        return [{"harness": "StreamsSmokeTest", "guarantee": settings.guarantee, "kills": stage.kills,
                 "seconds": round(time.monotonic() - began), "generated": 20000, "processed": processed[-1] if processed else "-",
                 "exit codes": closed, "verdict": verdict}]


def settings_from(argv):
    flags = applications.parser("StreamsSmokeTest under kill -9")
    flags.add_argument("--guarantee", choices=("at_least_once", "exactly_once_v2"), default="exactly_once_v2")
    return flags.parse_args(argv)


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
