"""WordCountDemo of Apache Kafka's Streams examples: two instances, one restarted in the middle, while brokers are killed.

    word_count.py [--system kafka|odradek] [--guarantee at_least_once|exactly_once_v2] [--lines 20000]

The instances are static members with a standby task each. Under exactly_once_v2 the instance is killed with kill -9 and the
counts must be right to the last word; under at_least_once it is stopped, and no count may be too small.
"""

import os
import random
import sys
import time

import applications
import interop

DEMO = "org.apache.kafka.streams.examples.wordcount.WordCountDemo"
APPLICATION = "word-count"
INPUT, OUTPUT = "streams-plaintext-input", "streams-wordcount-output"
WORDS = [f"word{n}" for n in range(400)]
PARTITIONS = 5
LIMIT_SECONDS = 240


class Demo:
    """An instance of the demo with its own folder of state, which it finds again after a restart."""

    def __init__(self, stage, settings, name):
        self.stage, self.name, self.starts = stage, name, 0
        self.properties = stage.folder / f"{name}.properties"
        self.properties.write_text("\n".join([
            f"bootstrap.servers={stage.bootstrap}", f"application.id={APPLICATION}", f"state.dir={stage.folder}/state-{name}",
            f"processing.guarantee={settings.guarantee}", f"group.instance.id={name}", "num.standby.replicas=1",
            "replication.factor=3", "commit.interval.ms=500", "consumer.session.timeout.ms=10000",
        ]) + "\n")
        self.program = None

    def start(self):
        self.starts += 1
        self.program = self.stage.java(f"{self.name}-{self.starts}", os.environ["STREAMS_JARS"], DEMO, str(self.properties))


def counts(stage):
    """The latest count of every word."""
    found = {}
    for rows in stage.read(OUTPUT).values():
        for _, word, count in rows:
            found[word.decode()] = int.from_bytes(count, "big")
    return found


def right(found, expected, guarantee):
    if guarantee == "exactly_once_v2":
        return found == expected
    return all(found.get(word, 0) >= count for word, count in expected.items())


def internal_topics(stage):
    """Whether Streams has made its two topics as it makes them on Kafka: the changelog is compacted, the repartition topic not."""
    from confluent_kafka.admin import ConfigResource

    policies = {}
    for name in ("repartition", "changelog"):
        topic = f"{APPLICATION}-KSTREAM-AGGREGATE-STATE-STORE-0000000003-{name}"
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        policies[name] = stage.admin.describe_configs([resource])[resource].result(20)["cleanup.policy"].value
    return policies == {"repartition": "delete", "changelog": "compact"}


def run(settings, folder):
    with applications.Stage(settings, folder) as stage:
        print(f"seed {stage.seed}")
        began = time.monotonic()
        stage.create(INPUT, OUTPUT, partitions=PARTITIONS)

        choose = random.Random(stage.seed)
        lines = [" ".join(choose.choices(WORDS, k=8)) for _ in range(settings.lines)]
        expected = {}
        for line in lines:
            for word in line.split():
                expected[word] = expected.get(word, 0) + 1
        first, second = Demo(stage, settings, "first"), Demo(stage, settings, "second")
        first.start()
        second.start()
        half = len(lines) // 2
        with stage.killing(first=5.0):
            stage.produce(INPUT, ((None, line.encode()) for line in lines[:half]))
            interop.wait_for("the first counts", LIMIT_SECONDS, lambda: counts(stage), pause=1)
            if settings.guarantee == "exactly_once_v2":
                first.program.kill()
            else:
                first.program.stop()
            stage.produce(INPUT, ((None, line.encode()) for line in lines[half:]))
            first.start()
            verdict, found = "ok", {}

            def done():
                found.clear()
                found.update(counts(stage))
                return right(found, expected, settings.guarantee)

            try:
                interop.wait_for("all words counted", LIMIT_SECONDS, done, pause=2)
            except TimeoutError:
                verdict = "FAILED"
                stage.show_logs()
        if verdict == "ok" and not internal_topics(stage):
            verdict = "FAILED: the internal topics"
        for demo in (first, second):
            demo.program.stop()
        return [{"harness": "WordCountDemo", "guarantee": settings.guarantee, "kills": stage.kills,
                 "seconds": round(time.monotonic() - began), "words": sum(expected.values()), "counted": sum(found.values()),
                 "verdict": verdict}]


def settings_from(argv):
    flags = applications.parser("WordCountDemo under kill -9")
    flags.add_argument("--guarantee", choices=("at_least_once", "exactly_once_v2"), default="exactly_once_v2")
    flags.add_argument("--lines", type=int, default=20000)
    return flags.parse_args(argv)


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
