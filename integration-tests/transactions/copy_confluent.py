"""confluent-kafka copies a topic in transactions: copy_confluent.py BOOTSTRAP SOURCE TARGET GROUP COUNT."""

import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

BATCH = 500


def new_producer(bootstrap, group):
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"{group}-copier", "transaction.timeout.ms": 10000})
    producer.init_transactions(60)
    return producer


def positions(consumer):
    return [p for p in consumer.position(consumer.assignment()) if p.offset >= 0]


def rewind(consumer):
    """Back to what is committed, so that the aborted batch comes again."""
    for partition in consumer.committed(consumer.assignment(), timeout=30):
        partition.offset = max(partition.offset, 0)
        consumer.seek(partition)


def copy(bootstrap, source, target, group, count):
    producer = new_producer(bootstrap, group)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                         "enable.auto.commit": False, "isolation.level": "read_committed"})
    consumer.subscribe([source])
    copied, transactions = 0, 0
    while copied < count:
        batch = [m for m in consumer.consume(BATCH, timeout=1.0) if not m.error()]
        if not batch:
            continue
        transactions += 1
        producer.begin_transaction()
        for message in batch:
            producer.produce(target, key=message.key(), value=message.value())
        try:
            producer.send_offsets_to_transaction(positions(consumer), consumer.consumer_group_metadata(), 60)
            if transactions % 3 == 0:
                # So that there is something to abort on the brokers.
                producer.flush(30)
                producer.abort_transaction(60)
                rewind(consumer)
                continue
            producer.commit_transaction(60)
            copied += len(batch)
        except KafkaException as error:
            if not error.args[0].txn_requires_abort():
                raise
            producer.abort_transaction(60)
            rewind(consumer)
    consumer.close()
    return producer


def check_fencing(bootstrap, group, target, first):
    """A second producer with the transactional id shuts the first one out."""
    second = new_producer(bootstrap, group)
    first.begin_transaction()
    try:
        first.produce(target, b"from a zombie")
        first.commit_transaction(60)
    except KafkaException as error:
        if error.args[0].code() not in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED):
            raise
    else:
        raise AssertionError("the first producer was not fenced")
    second.begin_transaction()
    second.abort_transaction(60)


def main(bootstrap, source, target, group, count):
    first = copy(bootstrap, source, target, group, int(count))
    check_fencing(bootstrap, group, target, first)


if __name__ == "__main__":
    main(*sys.argv[1:])
