"""confluent-kafka (librdkafka): confluent.py BOOTSTRAP TOPIC GROUP COUNT."""

import os
import sys
import threading

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import interop


def create(admin, topic):
    new = NewTopic(topic, num_partitions=interop.PARTITIONS, replication_factor=interop.REPLICATION)
    admin.create_topics([new], operation_timeout=20)[topic].result(30)


def listed(admin, topic):
    interop.wait_for("topic in the list", 20, lambda: topic in admin.list_topics(timeout=10).topics)


def described(admin, topic):
    def whole():
        names = confluent_kafka.TopicCollection([topic])
        partitions = admin.describe_topics(names)[topic].result(20).partitions
        return len(partitions) == interop.PARTITIONS and all(
            p.leader is not None and len(p.replicas) == interop.REPLICATION and len(p.isr) == interop.REPLICATION
            for p in partitions
        )

    interop.wait_for("three partitions, each with three replicas in sync", 30, whole)


def produce(bootstrap, topic, count):
    acked, errors = {}, []

    def delivered(i):
        def callback(error, message):
            if error:
                errors.append(f"record {i}: {error}")
            else:
                acked[i] = (message.partition(), message.offset())

        return callback

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
    for i in range(count):
        producer.produce(topic, key=interop.key(i), value=interop.value(i), on_delivery=delivered(i))
        producer.poll(0)
    left = producer.flush(60)
    assert left == 0 and not errors, f"{left} not acknowledged, {errors[:2]}"
    assert len(acked) == count
    return acked


class Member(threading.Thread):
    """One member of the group, on its own thread; commits by hand at the end."""

    def __init__(self, bootstrap, topic, group, ledger):
        super().__init__(daemon=True)
        self.ledger, self.ending, self.error = ledger, threading.Event(), None
        self.assigned = set()
        self.consumer = Consumer({
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "partition.assignment.strategy": "cooperative-sticky",
        })
        self.consumer.subscribe([topic], on_assign=self.on_assign, on_revoke=self.on_revoke)

    def on_assign(self, _, partitions):
        self.assigned |= {p.partition for p in partitions}

    def on_revoke(self, _, partitions):
        self.assigned -= {p.partition for p in partitions}

    def run(self):
        try:
            while not self.ending.is_set():
                message = self.consumer.poll(0.1)
                if message is None:
                    continue
                assert message.error() is None, message.error()
                self.ledger.add(self.name, message.partition(), message.offset(), message.key(), message.value())
            self.consumer.commit(asynchronous=False)
        except Exception as error:
            self.error = error
        finally:
            self.consumer.close()


def group_of_two(bootstrap, topic, group, ledger):
    members = [Member(bootstrap, topic, group, ledger) for _ in range(2)]
    for member in members:
        member.start()

    def settled():
        both = [set(m.assigned) for m in members]
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
    after = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    partitions = [TopicPartition(topic, p) for p in range(interop.PARTITIONS)]
    for p in after.committed(partitions, timeout=20):
        end = after.get_watermark_offsets(p, timeout=20)[1]
        assert p.offset == end, f"partition {p.partition}: committed {p.offset}, end {end}"
    after.close()


def main(bootstrap, topic, group, count):
    version = f"{confluent_kafka.__version__}"
    report = interop.Report("confluent-kafka", version)
    admin = AdminClient({"bootstrap.servers": bootstrap})
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
