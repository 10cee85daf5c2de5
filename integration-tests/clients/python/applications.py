"""What the harnesses of whole applications share: a cluster whose brokers die, programs in Java, and the counting of records.

Used by integration-tests/{transactions,streams,connect,mirror}. A harness runs on Apache Kafka first, which says whether the
harness is right, and then on Odradek; both get the same server.properties. Promises that no process outlives a `Stage`.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import interop
import systems

NODES = 3
IN_SYNC_SECONDS = 180
READ_SECONDS = 300
ANSWER_SECONDS = 60
# Characters of each log that a failure shows.
LOG_SHOWN = 8000


def parser(description):
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--system", choices=("kafka", "odradek"), default="odradek")
    flags.add_argument("--binary", default=os.environ.get("ODRADEK_BIN", "odradek"), help="the odradek program")
    flags.add_argument("--base-port", type=int, default=26892)
    flags.add_argument("--every", type=float, default=15.0, help="seconds between two kills of a broker; 0: none is killed")
    flags.add_argument("--down", type=float, default=4.0, help="seconds that a killed broker stays down")
    flags.add_argument("--seed", type=int, default=None, help="of the choice of brokers; printed by every run")
    flags.add_argument("--override", action="append", default=[], help="a configuration of the brokers, key=value")
    flags.add_argument("--keep", help="a new folder for data and logs, kept; default: a temporary one")
    return flags


class Stage:
    """A cluster, the programs that use it, and who kills its brokers. Ends everything that it started."""

    def __init__(self, settings, folder, nodes=NODES):
        self.settings, self.folder = settings, pathlib.Path(folder)
        self.seed = settings.seed if settings.seed is not None else random.randrange(1 << 30)
        self.random = random.Random(self.seed)
        self.system = system(settings.system, self.folder / "cluster", settings.base_port, nodes,
                             settings.override, settings.binary)
        self.programs = []
        self.kills = 0

    def __enter__(self):
        try:
            self.system.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self

    def __exit__(self, kind, *_):
        for program in self.programs:
            program.kill()
        self.system.stop()
        if kind is not None and issubclass(kind, Exception):
            self.show_logs()

    def show_logs(self):
        # Not those below: segments of partitions have the same ending.
        for log in sorted([*self.folder.glob("*.log"), *self.folder.glob("cluster/*.log")]):
            print(f"--- {log.relative_to(self.folder)}\n{log.read_text(errors='replace')[-LOG_SHOWN:]}", file=sys.stderr)

    @property
    def bootstrap(self):
        return self.system.bootstrap

    def start(self, name, argv, **options):
        program = Program(name, argv, self.folder, **options)
        self.programs.append(program)
        return program

    def java(self, name, jars, main, *arguments, heap="256m", flags=()):
        """A main class of a folder of jars. Several JVMs share two cores: one compiler and one collector thread each."""
        argv = ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=WARN", *flags,
                "-cp", f"{jars}/*", main, *map(str, arguments)]
        return self.start(name, argv)

    def create(self, *topics, partitions=6, config=None):
        new = [NewTopic(topic, partitions, self.system.count, config=config or {}) for topic in topics]
        for created in self.admin.create_topics(new, operation_timeout=30).values():
            created.result(60)
        self.wait_whole()

    def whole(self):
        """Every partition has a leader and all its replicas in sync."""
        try:
            found = self.admin.list_topics(timeout=3)
        except confluent_kafka.KafkaException:
            return False
        partitions = [p for topic in found.topics.values() for p in topic.partitions.values()]
        return len(found.brokers) == self.system.count and all(p.leader > 0 and len(p.isrs) == len(p.replicas) for p in partitions)

    def wait_whole(self):
        interop.wait_for("every replica in sync", IN_SYNC_SECONDS, self.whole, pause=0.25)

    def kill_broker(self, node):
        self.system.kill(node)
        self.kills += 1
        print(f"  kill -9 of broker {node}", flush=True)

    @contextlib.contextmanager
    def killing(self, first=0.0):
        """While this lasts a broker dies every `--every` seconds, the first one after `first`; each in its turn, in random order.

        Gives the killer, which can be told to strike now; with --every 0 it never starts.
        """
        killer = Killer(self, first)
        if not self.settings.every:
            yield killer
            return
        killer.start()
        try:
            yield killer
        finally:
            killer.end()

    def produce(self, topic, rows, partition=None):
        """Sends (key, value) pairs and waits for every acknowledgement."""
        refused = []
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 20, "log_level": 0})

        def delivered(error, _):
            if error:
                refused.append(str(error))

        for key, value in rows:
            at = {} if partition is None else {"partition": partition(key)}
            while True:
                try:
                    producer.produce(topic, key=key, value=value, on_delivery=delivered, **at)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        left = producer.flush(120)
        if left or refused:
            raise RuntimeError(f"{topic}: {left} records not sent, {len(refused)} refused: {refused[:1]}")

    def read(self, topic, isolation="read_committed", bootstrap=None):
        """What lies in a topic when this is called: {partition: [(offset, key, value)]}."""
        return read(bootstrap or self.bootstrap, topic, isolation)

    def committed(self, group, topic):
        """The group's committed offsets, {partition: offset}; 0 where it has none."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0})
        try:
            found = patiently(lambda: partitions_of(self.admin, topic))
            at = patiently(lambda: consumer.committed([TopicPartition(topic, p) for p in found], timeout=20))
            return {p.partition: max(p.offset, 0) for p in at}
        finally:
            consumer.close()

    def ends(self, topic):
        """The high watermarks, {partition: offset}."""
        return {p: end for p, (_, end) in watermarks(self.bootstrap, topic).items()}


def system(name, folder, base_port, nodes, overrides, binary):
    folder.mkdir(parents=True, exist_ok=True)
    # So that an acknowledged record survives any one broker.
    overrides = [f"min.insync.replicas={min(nodes, 2)}", "group.initial.rebalance.delay.ms=0", *overrides]
    if name == "kafka":
        return systems.ApacheKafka(folder, base_port, nodes, overrides)
    return systems.OdradekNodes(folder, base_port, nodes, overrides, binary)


class Killer(threading.Thread):
    """kill -9 of one broker after another, each when the last one is back in every ISR."""

    def __init__(self, stage, first):
        super().__init__(daemon=True)
        self.stage, self.wait, self.error = stage, first, None
        self.wanted, self.ending = threading.Event(), threading.Event()

    def run(self):
        order = []
        try:
            while self.due():
                self.stage.wait_whole()
                order = order or self.stage.random.sample(list(self.stage.system.numbers()), self.stage.system.count)
                began = time.monotonic()
                self.strike(order.pop())
                self.wait = max(0.0, began + self.stage.settings.every - time.monotonic())
        except Exception as error:
            self.error = error

    def due(self):
        """Waits for the next kill; False when there is none."""
        self.wanted.wait(self.wait)
        self.wanted.clear()
        return not self.ending.is_set()

    def now(self):
        """The next broker dies as soon as the last one is back."""
        self.wanted.set()

    def strike(self, node):
        self.stage.kill_broker(node)
        self.ending.wait(self.stage.settings.down)
        self.stage.system.up(node)

    def end(self):
        self.ending.set()
        self.wanted.set()
        self.join(IN_SYNC_SECONDS + 60)
        if self.error:
            raise RuntimeError("the killing of brokers failed") from self.error
        self.stage.wait_whole()


class Program:
    """A process with a log of its own."""

    def __init__(self, name, argv, folder, env=None, cwd=None):
        self.name, self.log = name, pathlib.Path(folder) / f"{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=cwd,
                                            env={**os.environ, **(env or {})})

    def said(self):
        return self.log.read_text(errors="replace")

    def count(self, pattern):
        return len(re.findall(pattern, self.said(), re.MULTILINE))

    def wait_for(self, pattern, seconds, times=1):
        """Until the log has `times` lines with the pattern; says so when the program ends first."""
        def there():
            if self.count(pattern) >= times:
                return True
            if self.process.poll() is not None and self.count(pattern) < times:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode} before it said {pattern!r}")
            return False

        interop.wait_for(f"{self.name}: {pattern!r}", seconds, there)

    def wait(self, seconds):
        return self.process.wait(seconds)

    def running(self):
        return self.process.poll() is None

    def stop(self, seconds=60):
        """SIGTERM, and how it ended; Java ends with 143 then."""
        if self.running():
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self):
        """kill -9, if it still runs."""
        if self.running():
            self.process.kill()
            self.process.wait(30)


def patiently(ask):
    """Asks until there is an answer: while a broker is dead, a question to it fails."""
    end = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return ask()
        except confluent_kafka.KafkaException:
            if time.monotonic() > end:
                raise
            time.sleep(0.25)


def partitions_of(client, topic):
    found = client.list_topics(topic, timeout=20).topics[topic]
    if found.error is not None:
        raise confluent_kafka.KafkaException(found.error)
    return sorted(found.partitions)


def watermarks(bootstrap, topic):
    """Start and end of each partition, {partition: (start, end)}."""
    def ask():
        # A client whose question met a dying broker may take a partition for unknown from then on.
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 0})
        try:
            found = partitions_of(consumer, topic)
            return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20) for p in found}
        finally:
            consumer.close()
    return patiently(ask)


def read(bootstrap, topic, isolation):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False, "log_level": 0,
                         "enable.partition.eof": True, "auto.offset.reset": "error", "isolation.level": isolation})
    try:
        starts = {p: start for p, (start, _) in watermarks(bootstrap, topic).items()}
        partitions = list(starts)
        consumer.assign([TopicPartition(topic, p, start) for p, start in starts.items()])
        rows, ended = {p: [] for p in partitions}, set()
        deadline = time.monotonic() + READ_SECONDS
        while len(ended) < len(partitions):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic}: partitions {set(partitions) - ended} have no end within {READ_SECONDS} s")
            for message in consumer.consume(5000, timeout=1.0):
                if message.error() is None:
                    rows[message.partition()].append((message.offset(), message.key(), message.value()))
                elif message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                elif not message.error().retriable():
                    raise RuntimeError(f"{topic}: {message.error()}")
        return rows
    finally:
        consumer.close()


def compare(expected, found):
    """How often each of `expected` is in `found`: what is missing, what is there more often than it should, what is alien."""
    want, have = collections.Counter(expected), collections.Counter(found)
    return {"expected": want.total(), "found": have.total(), "missing": (want - have).total(),
            "repeated": sum(n - want[k] for k, n in have.items() if k in want and n > want[k]),
            "alien": sum(n for k, n in have.items() if k not in want)}


def wrong(counts, at_least_once=False):
    """Whether a comparison breaks the promise."""
    return bool(counts["missing"] or counts["alien"] or (counts["repeated"] and not at_least_once))


def say(row):
    """What one run of several did, on one line."""
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def table(rows):
    """Prints dictionaries with the same keys as a table."""
    lines = [list(rows[0])] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print(" | ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def main(settings, run):
    """Runs `run(settings, folder)`, which gives back rows with a "verdict" each; prints them; 1 unless every verdict is ok."""
    # So that a harness that is told to stop, by kill or by a caller that tires of it, ends what it started.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if settings.keep:
        folder = pathlib.Path(settings.keep)
        folder.mkdir(parents=True)
    else:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="odradek-applications-"))
    try:
        rows = [{"system": settings.system, **row} for row in run(settings, folder)]
    finally:
        if not settings.keep:
            shutil.rmtree(folder, ignore_errors=True)
    table(rows)
    failed = sum(row["verdict"] != "ok" for row in rows)
    print(json.dumps(rows))
    print(f"\n{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0
