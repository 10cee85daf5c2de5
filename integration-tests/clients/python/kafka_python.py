"""kafka-python (pure Python): kafka_python.py BOOTSTRAP TOPIC GROUP COUNT."""

import os
import sys
import threading

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

import interop


def create(admin, topic):
    admin.create_topics([NewTopic(name=topic, num_partitions=interop.PARTITIONS, replication_factor=interop.REPLICATION)])


def listed(admin, topic):
    interop.wait_for("topic in the list", 20, lambda: topic in admin.list_topics())


def described(admin, topic):
    def whole():
        found = admin.describe_topics([topic])
        assert len(found) == 1, found
        partitions = found[0]["partitions"]
        return len(partitions) == interop.PARTITIONS and all(
            len(p["replica_nodes"]) == interop.REPLICATION and len(p["isr_nodes"]) == interop.REPLICATION
            for p in partitions
        )

    interop.wait_for("three partitions, each with three replicas in sync", 30, whole)


def produce(bootstrap, topic, count):
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5)
    futures = [producer.send(topic, key=interop.key(i), value=interop.value(i)) for i in range(count)]
    producer.flush(timeout=90)
    acked = {}
    for i, future in enumerate(futures):
        metadata = future.get(timeout=10)
        acked[i] = (metadata.partition, metadata.offset)
    producer.close(timeout=10)
    return acked


class Member(threading.Thread):
    """One member of the group, on its own thread; commits by hand at the end."""

    def __init__(self, bootstrap, topic, group, ledger):
        super().__init__(daemon=True)
        self.ledger, self.ending, self.error = ledger, threading.Event(), None
        self.assigned = set()
        self.consumer = KafkaConsumer(
            bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
        )
        self.consumer.subscribe([topic])

    def run(self):
        try:
            while not self.ending.is_set():
                for partition, records in self.consumer.poll(timeout_ms=100).items():
                    for r in records:
                        self.ledger.add(self.name, partition.partition, r.offset, r.key, r.value)
                self.assigned = {p.partition for p in self.consumer.assignment()}
            self.consumer.commit()
        except Exception as error:
            self.error = error
        finally:
            self.consumer.close()


def group_of_two(bootstrap, topic, group, ledger):
    members = [Member(bootstrap, topic, group, ledger) for _ in range(2)]
    for member in members:
        member.start()

    def settled():
        assert not any(m.error for m in members), [m.error for m in members]
        both = [m.assigned for m in members]
        return all(both) and sum(len(a) for a in both) == interop.PARTITIONS

    interop.wait_for("both members have partitions", 60, settled)
    return members


def consume(bootstrap, topic, group, count, acked, members, ledger):
    interop.wait_for("all records", 90, lambda: ledger.count >= count or any(m.error for m in members))
    for member in members:
        member.ending.set()
    for member in members:
        member.join(30)
        assert member.error is None, member.error
    ledger.verify(count, acked)
    after = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    partitions = [TopicPartition(topic, p) for p in range(interop.PARTITIONS)]
    ends = after.end_offsets(partitions)
    for p in partitions:
        committed = after.committed(p)
        assert committed == ends[p], f"partition {p.partition}: committed {committed}, end {ends[p]}"
    after.close()


def main(bootstrap, topic, group, count):
    report = interop.Report("kafka-python", kafka.__version__)
    admin = report.step("create", lambda: KafkaAdminClient(bootstrap_servers=bootstrap))
    report.step("create", lambda: create(admin, topic))
    report.step("list", lambda: listed(admin, topic))
    report.step("describe", lambda: described(admin, topic))
    ledger = interop.Ledger()
    members = report.step("consume", lambda: group_of_two(bootstrap, topic, group, ledger))
    acked = report.step("produce", lambda: produce(bootstrap, topic, count))
    report.step("consume", lambda: consume(bootstrap, topic, group, count, acked, members, ledger))
    return report.end()


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    sys.stdout.flush()
    # Threads of a failed run must not keep the process.
    os._exit(status)
