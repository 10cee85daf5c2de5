"""MirrorMaker 2 from Apache Kafka to Odradek and back: records and a group's offsets in both directions.

    mirror.py [--system kafka|odradek] [--records 100000] [--exactly-once]

One side ("there") is Apache Kafka, one node; the other ("here") is the system under test, three nodes. In each direction a topic
is copied and the group that reads it at the source is to go on at the copy: first from where it stands in the middle, no
record lost; then, when it has read everything and a record more, with nothing left to read. --exactly-once has MirrorMaker
write within transactions.
"""

import argparse
import os
import sys
import time

import confluent_kafka
from confluent_kafka import Consumer

import applications
import interop

MAIN = "org.apache.kafka.connect.mirror.MirrorMaker"
PARTITIONS = 4
COPY_SECONDS = 300
TRANSLATE_SECONDS = 120


class Direction:
    """A topic of one side, its copy on the other, and the group that reads it."""

    def __init__(self, source, target, alias, topic):
        self.source, self.target = source, target
        self.topic, self.copy, self.group = topic, f"{alias}.{topic}", f"{topic}-readers"
        self.before = set()

    def fill(self, records):
        self.source.create(self.topic, partitions=PARTITIONS)
        self.source.produce(self.topic, ((b"%d" % i, b"%s %d" % (self.topic.encode(), i)) for i in range(records)))

    def one_more(self):
        """A record to each partition, which the group reads too."""
        self.source.produce(self.topic, ((b"%d" % p, b"one more") for p in range(PARTITIONS)), partition=int)
        self.consume(PARTITIONS)

    def consume(self, count):
        """The group reads on at the source, at least `count` records, and commits."""
        consumer = Consumer({"bootstrap.servers": self.source.bootstrap, "group.id": self.group, "auto.offset.reset": "earliest",
                             "enable.auto.commit": False, "log_level": 0})
        consumer.subscribe([self.topic])
        end = time.monotonic() + COPY_SECONDS
        try:
            while count > 0:
                if time.monotonic() > end:
                    raise TimeoutError(f"{self.group}: {count} records did not come")
                for message in consumer.consume(min(count, 1000), timeout=1.0):
                    if message.error() is None:
                        self.before.add(message.key())
                        count -= 1
            consumer.commit(asynchronous=False)
        finally:
            consumer.close()

    def copied(self):
        """Records of the copy, 0 while it is not there."""
        try:
            return sum(len(rows) for rows in self.target.read(self.copy).values())
        except (KeyError, confluent_kafka.KafkaException, RuntimeError):
            return 0

    def translated(self):
        """The group's offsets at the copy, {} until there is one for every partition that it has read from at the source."""
        read = {p for p, offset in self.source.committed(self.group, self.topic).items() if offset}
        there = {p: offset for p, offset in self.target.committed(self.group, self.copy).items() if offset}
        return there if read <= set(there) else {}

    def left(self):
        """Keys from the translated offsets on, and all of the partitions that have none."""
        offsets, rows = self.translated(), self.target.read(self.copy)
        return [key for p, records in rows.items() for offset, key, _ in records if offset >= offsets.get(p, 0)]

    def row(self, settings, began, name):
        source = [key for rows in self.source.read(self.topic).values() for _, key, _ in rows]
        copy = [key for rows in self.target.read(self.copy).values() for _, key, _ in rows]
        counts = applications.compare(source, copy)
        interop.wait_for(f"{self.group}: offsets at the copy", TRANSLATE_SECONDS, self.translated, pause=1)
        again, unread = self.left(), set(source) - self.before
        lost = len(unread - set(again))
        self.consume(len(unread))
        # MirrorMaker restarts its tasks when it finds a topic, its heartbeats soon after the start. A task that is stopped forgets the
        # offset syncs that it has not sent yet (OffsetSyncWriter), up to those of a batch; a partition's next record makes up for it.
        self.one_more()
        verdict = "FAILED" if applications.wrong(counts) or lost else "ok"
        try:
            interop.wait_for(f"{self.group}: nothing left at the copy", TRANSLATE_SECONDS, lambda: not self.left(), pause=1)
        except TimeoutError:
            verdict = f"FAILED: {len(self.left())} records are left at the copy"
            print(f"{self.group}: at {self.source.committed(self.group, self.topic)} of {self.source.ends(self.topic)} at the source, at "
                  f"{self.target.committed(self.group, self.copy)} of {self.target.ends(self.copy)} at the copy", file=sys.stderr)
        return {"harness": "MirrorMaker 2", "direction": name, "exactly once": settings.exactly_once,
                "seconds": round(time.monotonic() - began), **counts, "group reads again": len(again) - len(unread),
                "group lost": lost, "verdict": verdict}


def properties(here, there, settings):
    path = here.folder / "mirror.properties"
    support = "enabled" if settings.exactly_once else "disabled"
    path.write_text("\n".join([
        "clusters=there,here", f"there.bootstrap.servers={there.bootstrap}", f"here.bootstrap.servers={here.bootstrap}",
        "there->here.enabled=true", "there->here.topics=orders", "there->here.groups=orders-readers",
        "here->there.enabled=true", "here->there.topics=payments", "here->there.groups=payments-readers",
        # -1: as the brokers' configuration says.
        *(f"{name}.replication.factor=-1" for name in ("checkpoints.topic", "heartbeats.topic", "offset-syncs.topic",
                                                       "offset.storage", "status.storage", "config.storage")),
        "replication.factor=-1", "tasks.max=2", "sync.topic.acls.enabled=false", "refresh.topics.interval.seconds=2",
        "refresh.groups.interval.seconds=2", "sync.group.offsets.enabled=true", "sync.group.offsets.interval.seconds=1",
        "emit.checkpoints.interval.seconds=1", "offset.lag.max=0", "offset.flush.interval.ms=1000",
        f"there.exactly.once.source.support={support}", f"here.exactly.once.source.support={support}",
        "dedicated.mode.enable.internal.rest=false", "plugin.discovery=service_load",
    ]) + "\n")
    return str(path)


def run(settings, folder):
    other = argparse.Namespace(**{**vars(settings), "system": "kafka", "base_port": settings.base_port + 100})
    with applications.Stage(settings, folder / "here") as here, applications.Stage(other, folder / "there", nodes=1) as there:
        directions = {f"Apache Kafka to {settings.system}": Direction(there, here, "there", "orders"),
                      f"{settings.system} to Apache Kafka": Direction(here, there, "here", "payments")}
        for direction in directions.values():
            direction.fill(settings.records)
            direction.consume(settings.records * 6 // 10)
        began = time.monotonic()
        here.java("mirror", os.environ["CONNECT_JARS"], MAIN, properties(here, there, settings), heap="768m")
        for name, direction in directions.items():
            interop.wait_for(name, COPY_SECONDS, lambda d=direction: d.copied() >= settings.records, pause=2)
        rows = [direction.row(settings, began, name) for name, direction in directions.items()]
        if any(row["verdict"] != "ok" for row in rows):
            here.show_logs()
        return rows


def settings_from(argv):
    flags = applications.parser("MirrorMaker 2 between Apache Kafka and another cluster")
    flags.add_argument("--records", type=int, default=100_000)
    flags.add_argument("--exactly-once", action="store_true")
    return flags.parse_args(argv)


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
