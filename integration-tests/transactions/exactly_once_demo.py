"""KafkaExactlyOnceDemo of Apache Kafka's examples, while brokers are killed; the output is then counted under read_committed.

    exactly_once_demo.py [--system kafka|odradek] [--runs 10] [--partitions 6] [--instances 3] [--records 10000]

The demo copies input-topic to output-topic with several transactional processors of one consumer group. It has the
bootstrap server localhost:9092 built in, so the cluster's first broker is there. Its exit code is always 0; the verdict is
this harness's own: every input record is in the output exactly once. Brokers die from when the topics are there to the end, one
of them when the copying begins. The demo gives each of its stages two minutes, and its first sends one record at a time: on a
machine that is busy otherwise, take fewer --records.
"""

import os
import sys
import time

import applications

DEMO = "kafka.examples.KafkaExactlyOnceDemo"
LIMIT_SECONDS = 420
BUILT_IN_PORT = 9092


def round_of(stage, settings, number):
    kills, began = stage.kills, time.monotonic()
    demo = stage.java(f"demo-{number}", os.environ["TRANSACTIONS_JARS"], DEMO, settings.partitions, settings.instances,
                      settings.records)
    demo.wait_for("Created topics", 180)
    with stage.killing(first=stage.settings.every) as killer:
        demo.wait_for("Processing new records", LIMIT_SECONDS)
        # The copying takes seconds only.
        killer.now()
        demo.wait(LIMIT_SECONDS)
    sent = [key for rows in stage.read("input-topic").values() for _, key, _ in rows]
    copied = [key for rows in stage.read("output-topic").values() for _, key, _ in rows]
    counts = applications.compare(sent, copied)
    verdict = "ok"
    if counts["expected"] != settings.records:
        verdict = f"FAILED: {counts['expected']} input records"
    elif applications.wrong(counts):
        verdict = "FAILED"
    return {"harness": "KafkaExactlyOnceDemo", "run": number, "kills": stage.kills - kills, "seconds": round(time.monotonic() - began),
            **counts, "verdict": verdict}


def run(settings, folder):
    with applications.Stage(settings, folder) as stage:
        print(f"seed {stage.seed}")
        rows = []
        for number in range(1, settings.runs + 1):
            rows.append(round_of(stage, settings, number))
            applications.say(rows[-1])
            if rows[-1]["verdict"] != "ok":
                stage.show_logs()
        return rows


def settings_from(argv):
    flags = applications.parser("KafkaExactlyOnceDemo under kill -9")
    flags.add_argument("--runs", type=int, default=10)
    flags.add_argument("--partitions", type=int, default=6)
    flags.add_argument("--instances", type=int, default=3)
    flags.add_argument("--records", type=int, default=10000)
    flags.set_defaults(base_port=BUILT_IN_PORT)
    settings = flags.parse_args(argv)
    if settings.base_port != BUILT_IN_PORT:
        flags.error(f"the demo has port {BUILT_IN_PORT} built in; leave --base-port out")
    return settings


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
