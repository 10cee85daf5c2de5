"""TransactionalMessageCopier of Apache Kafka's tools, with random aborts, while brokers are killed.

    copier.py [--system kafka|odradek] [--runs 10] [--records 60000] [--copiers 3] [--no-group-metadata]

Several copiers of one consumer group copy a topic, partition by partition, and abort a third of their transactions. One that
ends with an error is started again under its transactional id, as a service would be. At the end each partition of the output
has the records of the input's, once each and in the same order.
"""

import os
import sys
import time

import applications
import interop

COPIER = "org.apache.kafka.tools.TransactionalMessageCopier"
PARTITIONS = 6
LIMIT_SECONDS = 420


class Copiers:
    """The copiers of a run, each under a transactional id of its own."""

    def __init__(self, stage, settings, number):
        self.stage, self.settings, self.number = stage, settings, number
        self.input, self.output, self.group = f"input-{number}", f"output-{number}", f"copiers-{number}"
        self.restarts = 0
        self.live = {}

    def start(self, i):
        arguments = ["--input-topic", self.input, "--output-topic", self.output, "--broker-list", self.stage.bootstrap,
                     "--input-partition", "-1", "--consumer-group", self.group, "--transaction-size", "200",
                     "--transaction-timeout", "10000", "--transactional-id", f"copier-{self.number}-{i}",
                     "--enable-random-aborts", "--group-mode"]
        if self.settings.group_metadata:
            arguments.append("--use-group-metadata")
        name = f"copier-{self.number}-{i}-{self.restarts}"
        self.live[i] = self.stage.java(name, os.environ["JARS"], COPIER, *arguments, heap="128m")

    def done(self):
        """Whether the group has committed everything; copiers that ended before that are started again."""
        if self.stage.committed(self.group, self.input) == self.stage.ends(self.input):
            return True
        for i, program in list(self.live.items()):
            if not program.running():
                self.restarts += program.process.returncode != 0
                self.start(i)
        return False

    def stop(self):
        for program in self.live.values():
            program.stop()


def key_partition(key):
    return int(key) % PARTITIONS


def round_of(stage, settings, number):
    kills, began = stage.kills, time.monotonic()
    copiers = Copiers(stage, settings, number)
    stage.create(copiers.input, copiers.output, partitions=PARTITIONS)
    rows = [(b"%d" % i, b"record %d" % i) for i in range(settings.records)]
    stage.produce(copiers.input, rows, partition=key_partition)
    with stage.killing(first=3.0):
        for i in range(settings.copiers):
            copiers.start(i)
        interop.wait_for("everything copied and committed", LIMIT_SECONDS, copiers.done, pause=1)
        copiers.stop()
    source, copy = stage.read(copiers.input), stage.read(copiers.output)
    everything = stage.read(copiers.output, isolation="read_uncommitted")
    counts = applications.compare((key for rows in source.values() for _, key, _ in rows),
                                  (key for rows in copy.values() for _, key, _ in rows))
    disordered = sum([key for _, key, _ in copy[p]] != [key for _, key, _ in source[p]] for p in source)
    aborted = sum(map(len, everything.values())) - counts["found"]
    verdict = "FAILED" if applications.wrong(counts) or disordered else "ok"
    if not aborted:
        verdict = "FAILED: nothing was aborted"
    return {"harness": "TransactionalMessageCopier", "run": number, "kills": stage.kills - kills,
            "seconds": round(time.monotonic() - began), "restarts": copiers.restarts, **counts, "aborted": aborted,
            "partitions out of order": disordered, "verdict": verdict}


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
    flags = applications.parser("TransactionalMessageCopier under kill -9, with random aborts")
    flags.add_argument("--runs", type=int, default=10)
    flags.add_argument("--records", type=int, default=60000)
    flags.add_argument("--copiers", type=int, default=3)
    flags.add_argument("--no-group-metadata", dest="group_metadata", action="store_false",
                       help="commit offsets by the group's name alone, as before KIP-447")
    return flags.parse_args(argv)


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
