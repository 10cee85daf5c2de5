"""chaos.py: an idempotent producer at a steady rate while nodes are killed with kill -9; then every record is checked.

    chaos.py --system kafka|odradek|odradek-nodes [--binary PATH] [--modes leader,controller,both,all] [--rounds 10] [--rate 5000]

Modes: leader (a node that leads partitions and is not the active controller), controller (the active controller, with its
partition leaders moved away first), both (the active controller while it leads partitions), all (every node at once).
A topic of 6 partitions with replication factor 3 and min.insync.replicas=2, acks=all. After the modes the whole topic is
read back: a record that was acknowledged must be there once, in the order of sending for its partition.
Prints one line for each kill and one JSON line at the end; exit code 1 when a limit is broken.
"""

import argparse
import array
import bisect
import heapq
import json
import pathlib
import socket
import sys
import tempfile
import threading
import time

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaPythonPartition

import interop
import systems

TOPIC = "chaos"
PROBE = "chaos-probe"
PARTITIONS = 6
UNKNOWN, FAILED = -1, -2
PAD = "x" * 80


class Load(threading.Thread):
    """Sends record i to partition i % PARTITIONS at `rate` records a second and notes when and where each was acked."""

    def __init__(self, bootstrap, rate):
        super().__init__(daemon=True)
        self.rate, self.ending, self.error = rate, threading.Event(), None
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "acks": "all",
                                  "log_level": 0})
        self.offsets = array.array("q")
        self.acks = [array.array("d") for _ in range(PARTITIONS)]
        self.failures = {}
        self.sent = self.acked = 0

    def delivered(self, i):
        def callback(error, message):
            if error is None:
                self.offsets[i] = message.offset()
                self.acks[i % PARTITIONS].append(time.monotonic())
                self.acked += 1
            else:
                self.offsets[i] = FAILED
                self.failures[str(error)] = self.failures.get(str(error), 0) + 1

        return callback

    def send(self):
        i = self.sent
        self.offsets.append(UNKNOWN)
        while True:
            try:
                self.producer.produce(TOPIC, key=b"%d" % (i % 97), value=b"%d %s" % (i, PAD.encode()),
                                      partition=i % PARTITIONS, on_delivery=self.delivered(i))
                self.sent += 1
                return
            except BufferError:
                self.producer.poll(0.05)

    def run(self):
        try:
            begin, before = time.monotonic(), 0
            while not self.ending.is_set():
                due = int((time.monotonic() - begin) * self.rate)
                # After a stall the rate goes on from now: what was not sent is not caught up.
                if due - before > self.rate:
                    begin, before, due = time.monotonic(), 0, 0
                for _ in range(due - before):
                    self.send()
                before = due
                self.producer.poll(0.002)
            left = self.producer.flush(120)
            if left:
                self.error = f"{left} records neither acknowledged nor refused 120 s after the end"
        except Exception as error:
            self.error = repr(error)

    def gaps(self, begin, end):
        """The longest time without an ack in [begin, end]: of the whole topic, and of the worst partition."""
        windows = [a[bisect.bisect_left(a, begin):bisect.bisect_right(a, end)] for a in self.acks]
        return longest_gap(heapq.merge(*windows), begin, end), max(longest_gap(w, begin, end) for w in windows)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def longest_gap(times, begin, end):
    longest, last = 0.0, begin
    for t in times:
        longest, last = max(longest, t - last), t
    return max(longest, end - last)


class Scene:
    """A cluster under load, what it looks like, and the kills."""

    def __init__(self, system, settings):
        self.system, self.settings = system, settings
        self.load = self.admin = None
        self.kills = []

    def prepare(self):
        self.system.start()
        self.admin = AdminClient({"bootstrap.servers": self.system.bootstrap, "log_level": 0})
        topic = NewTopic(TOPIC, PARTITIONS, 3, config={"min.insync.replicas": "2"})
        probe = NewTopic(PROBE, PARTITIONS, 3, config={"min.insync.replicas": "2"})
        for created in self.admin.create_topics([topic, probe], operation_timeout=20).values():
            created.result(30)
        self.wait_in_sync(60)
        self.load = Load(self.system.bootstrap, self.settings.rate)
        self.load.start()
        interop.wait_for("the first acks", 60, lambda: self.load.acked > self.settings.rate)

    def partitions(self):
        """Leader and in-sync replicas of each partition, or {} while nobody answers."""
        try:
            found = self.admin.list_topics(TOPIC, timeout=2).topics[TOPIC].partitions
            return {p.id: (p.leader, set(p.isrs)) for p in found.values()}
        except confluent_kafka.KafkaException:
            return {}

    def whole(self):
        found = self.partitions()
        return len(found) == PARTITIONS and all(leader > 0 and len(isr) == 3 for leader, isr in found.values())

    def wait_in_sync(self, seconds):
        interop.wait_for("every replica in sync", seconds, self.whole, pause=0.25)

    def ask(self, question):
        """Asks through kafka-python, which has the calls that librdkafka lacks; tries until the quorum has settled."""
        answers = []

        def tried():
            try:
                admin = KafkaAdminClient(bootstrap_servers=self.system.bootstrap)
                try:
                    answers.append(question(admin))
                finally:
                    admin.close()
                return True
            except Exception as error:
                tried.last = error
                return False

        try:
            interop.wait_for("an answer", 40, tried)
        except TimeoutError:
            raise RuntimeError(f"no answer within 40 s: {tried.last!r}") from tried.last
        return answers[-1]

    def controller(self):
        def leader(admin):
            found = admin.describe_metadata_quorum()["topics"][0]["partitions"][0]["leader_id"]
            if found < 1:
                raise LookupError("no quorum leader")
            return found

        return self.ask(leader)

    def leads(self, node):
        return [p for p, (leader, _) in self.partitions().items() if leader == node]

    def move_leaders(self, moves):
        """Makes node moves[p] the preferred and the actual leader of partition p."""
        def replicas(node):
            return [node] + [n for n in self.system.numbers() if n != node]

        plan = {KafkaPythonPartition(TOPIC, p): replicas(node) for p, node in moves.items()}
        refused = {p: e for p, e in self.ask(lambda a: a.alter_partition_reassignments(plan)).items() if e}
        if refused:
            raise RuntimeError(f"reassignment refused: {refused}")
        self.ask(lambda a: a.elect_leaders(0, {TOPIC: list(moves)}))
        interop.wait_for("leaders moved", 30, lambda: all(
            self.partitions().get(p, (0, ()))[0] == node for p, node in moves.items()))

    def choose(self, mode):
        controller = self.controller()
        others = [n for n in self.system.numbers() if n != controller]
        if mode == "leader":
            if not any(self.leads(n) for n in others):
                self.move_leaders({p: others[p % 2] for p in range(4)})
            return max(others, key=lambda n: len(self.leads(n)))
        led = self.leads(controller)
        if mode == "controller" and led:
            self.move_leaders({p: others[p % 2] for p in led})
        if mode == "both" and not led:
            self.move_leaders({0: controller, 1: controller})
        return self.controller()

    def round(self, mode, number):
        self.wait_in_sync(120)
        which = list(self.system.numbers()) if mode == "all" else [self.choose(mode)]
        led, controller = {n: len(self.leads(n)) for n in which}, self.controller()
        systems.until(time.monotonic() + self.settings.settle)
        acked = self.load.acked
        killed = time.monotonic()
        self.system.kill(*which)
        if mode != "all":
            systems.until(killed + self.settings.down)
        restarted = time.monotonic()
        for node in which:
            self.system.up(node)
        ready = None
        if mode == "all":
            ready = first_acks(self.system.bootstrap, 120) - restarted
        for node in which:
            interop.wait_for(f"node {node} accepts connections", 60, lambda: accepts(self.system.port(node)), pause=0.02)
        # Until the controller has noticed the kill, the metadata may still show the old ISR: two looks, a second apart.
        self.wait_in_sync(180)
        end = time.monotonic()
        systems.until(end + 1)
        if not self.whole():
            self.wait_in_sync(180)
            end = time.monotonic()
        self.wait_for_acks(end)
        topic_gap, partition_gap = self.load.gaps(killed, time.monotonic())
        kill = {"mode": mode, "round": number, "nodes": which, "controller": controller in which, "led": sum(led.values()),
                "gap_s": round(topic_gap, 3), "partition_gap_s": round(partition_gap, 3),
                "back_in_isr_s": round(end - restarted, 3), "acked": self.load.acked - acked}
        if ready is not None:
            kill["ready_s"] = round(ready, 3)
        self.kills.append(kill)
        print("  ".join(f"{k}={v}" for k, v in kill.items()), flush=True)

    def wait_for_acks(self, since):
        """Until every partition has acknowledged a record after `since`; says what the producer has if that does not come."""
        try:
            interop.wait_for("acks at the end", 60, lambda: self.load.error or all(a and a[-1] > since for a in self.load.acks))
        except TimeoutError as error:
            silent = [p for p, a in enumerate(self.load.acks) if not a or a[-1] <= since]
            raise RuntimeError(f"no acknowledgement from partitions {silent} for 60 s; {self.load.failures}") from error
        if self.load.error:
            raise RuntimeError(f"the producer ended: {self.load.error}")

    def finish(self):
        self.load.ending.set()
        self.load.join(180)
        if self.load.is_alive() or self.load.error:
            raise RuntimeError(self.load.error or "the producer does not end")
        return verify(self.system.bootstrap, self.load)


def first_acks(bootstrap, seconds):
    """When a new client that tries again every 50 ms has had an ack from every partition of the probe topic.

    The load's client waits up to 10 s between its own attempts to connect, which says nothing of the cluster.
    """
    quick = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 50, "retry.backoff.ms": 50,
             "topic.metadata.refresh.fast.interval.ms": 50}
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0, **quick})
    acked, refused = {}, []

    def delivered(error, message):
        if error is None:
            acked[message.partition()] = time.monotonic()
        else:
            refused.append(error)

    for partition in range(PARTITIONS):
        producer.produce(PROBE, b"ready?", partition=partition, on_delivery=delivered)
    producer.flush(seconds)
    if refused or len(acked) < PARTITIONS:
        raise RuntimeError(f"{len(acked)} of {PARTITIONS} partitions acknowledged within {seconds} s: {refused[:1]}")
    return max(acked.values())


def verify(bootstrap, load):
    """Counts what was lost, doubled or out of order, by reading every partition from its beginning to its end."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "verify", "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "error"})
    consumer.assign([TopicPartition(TOPIC, p, 0) for p in range(PARTITIONS)])
    found, ended = array.array("q", [UNKNOWN]) * load.sent, set()
    result = {"read": 0, "lost": 0, "duplicated": 0, "out_of_order": 0, "elsewhere": 0, "examples": []}
    last = [-1] * PARTITIONS

    def note(kind, text):
        result[kind] += 1
        if len(result["examples"]) < 10:
            result["examples"].append(f"{kind}: {text}")

    deadline = time.monotonic() + 300
    while len(ended) < PARTITIONS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the topic could not be read back: {result}")
        for message in consumer.consume(2000, timeout=1.0):
            partition = message.partition()
            if message.error() is not None:
                if message.error().code() != confluent_kafka.KafkaError._PARTITION_EOF:
                    raise RuntimeError(message.error())
                ended.add(partition)
                continue
            i, offset = int(message.value().split(b" ", 1)[0]), message.offset()
            result["read"] += 1
            where = f"record {i} at partition {partition} offset {offset}"
            if found[i] != UNKNOWN:
                note("duplicated", f"{where}, before at {found[i]}")
            elif i <= last[partition]:
                note("out_of_order", f"{where}, after record {last[partition]}")
            found[i], last[partition] = offset, max(last[partition], i)
    consumer.close()
    for i, acked in enumerate(load.offsets):
        # An acknowledgement of a retried batch may come without its offset; then only the record's presence counts.
        if acked != FAILED and found[i] == UNKNOWN:
            note("lost", f"record {i} of partition {i % PARTITIONS}, acknowledged at {acked}")
        elif acked >= 0 and found[i] != acked:
            note("elsewhere", f"record {i}: acknowledged at {acked}, found at {found[i]}")
    return result


def settings_from(argv):
    parser = argparse.ArgumentParser(description="kill -9 under load, and a check of every record")
    parser.add_argument("--system", choices=("kafka", "odradek", "odradek-nodes"), default="odradek")
    parser.add_argument("--binary", default="odradek", help="the odradek program")
    parser.add_argument("--modes", default="leader,controller,both,all")
    parser.add_argument("--rounds", type=int, default=10, help="kills in each mode")
    parser.add_argument("--all-rounds", type=int, default=3, help="kills in mode all")
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--down", type=float, default=5.0, help="seconds a killed node stays down")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds between a whole cluster and the next kill")
    parser.add_argument("--base-port", type=int, default=26092)
    parser.add_argument("--max-gap", type=float, default=3.0, help="longest allowed time without an ack; 0: any")
    parser.add_argument("--max-ready", type=float, default=3.0, help="longest allowed restart in mode all; 0: any")
    parser.add_argument("--override", action="append", default=[], help="a configuration of the cluster, key=value")
    parser.add_argument("--keep", help="a new folder for data and logs, kept; default: a temporary one")
    return parser.parse_args(argv)


def broken_limits(settings, kills, result, load):
    broken = [f"{result[k]} {k}" for k in ("lost", "duplicated", "out_of_order", "elsewhere") if result[k]]
    if load.failures:
        broken.append(f"refused to the producer: {load.failures}")
    for kill in kills:
        if kill["mode"] != "all" and settings.max_gap and kill["partition_gap_s"] > settings.max_gap:
            broken.append(f"{kill['mode']} {kill['round']}: {kill['partition_gap_s']} s without an ack")
        if kill["mode"] == "all" and settings.max_ready and kill["ready_s"] > settings.max_ready:
            broken.append(f"all {kill['round']}: ready after {kill['ready_s']} s")
    return broken


def worst(kills):
    by_mode = {}
    for kill in kills:
        mode = by_mode.setdefault(kill["mode"], {"kills": 0, "gap_s": 0.0, "partition_gap_s": 0.0})
        mode["kills"] += 1
        for name in ("gap_s", "partition_gap_s", "ready_s"):
            if name in kill:
                mode[name] = max(mode.get(name, 0.0), kill[name])
    return by_mode


def run(settings, folder):
    if settings.system == "kafka":
        system = systems.ApacheKafka(folder, settings.base_port, 3, settings.override)
    elif settings.system == "odradek-nodes":
        system = systems.OdradekNodes(folder, settings.base_port, 3, settings.override, settings.binary)
    else:
        system = systems.Odradek(folder, settings.base_port, 3, settings.override, settings.binary)
    scene = Scene(system, settings)
    try:
        scene.prepare()
        for mode in settings.modes.split(","):
            for number in range(1, (settings.all_rounds if mode == "all" else settings.rounds) + 1):
                scene.round(mode, number)
        result = scene.finish()
    finally:
        system.stop()
    load = scene.load
    broken = broken_limits(settings, scene.kills, result, load)
    print(json.dumps({"system": settings.system, "rate": settings.rate, "sent": load.sent, "acked": load.acked,
                      "failed": sum(load.failures.values()), **result, "worst": worst(scene.kills), "broken": broken}))
    for line in broken:
        print(f"broken: {line}")
    return 1 if broken else 0


def main(argv):
    settings = settings_from(argv)
    if settings.keep:
        folder = pathlib.Path(settings.keep)
        folder.mkdir(parents=True)
        return run(settings, folder)
    with tempfile.TemporaryDirectory(prefix="odradek-chaos-") as folder:
        return run(settings, pathlib.Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
