"""kafka-python copies a topic in transactions: copy_kafka_python.py BOOTSTRAP SOURCE TARGET GROUP COUNT."""

import sys

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, errors

BATCH = 500


def new_producer(bootstrap, group):
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{group}-copier", transaction_timeout_ms=10000)
    producer.init_transactions()
    return producer


def positions(consumer):
    return {p: OffsetAndMetadata(consumer.position(p), "", -1) for p in consumer.assignment()}


def rewind(consumer):
    """Back to what is committed, so that the aborted batch comes again."""
    for partition in consumer.assignment():
        consumer.seek(partition, consumer.committed(partition) or 0)


def copy(bootstrap, source, target, group, count):
    producer = new_producer(bootstrap, group)
    consumer = KafkaConsumer(source, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest",
                             enable_auto_commit=False, isolation_level="read_committed", max_poll_records=BATCH)
    copied, transactions = 0, 0
    while copied < count:
        batch = [record for records in consumer.poll(timeout_ms=1000).values() for record in records]
        if not batch:
            continue
        transactions += 1
        producer.begin_transaction()
        for record in batch:
            producer.send(target, key=record.key, value=record.value)
        producer.send_offsets_to_transaction(positions(consumer), consumer.group_metadata())
        if transactions % 3 == 0:
            # So that there is something to abort on the brokers.
            producer.flush()
            producer.abort_transaction()
            rewind(consumer)
        else:
            producer.commit_transaction()
            copied += len(batch)
    consumer.close()
    return producer


def check_fencing(bootstrap, group, target, first):
    """A second producer with the transactional id shuts the first one out."""
    second = new_producer(bootstrap, group)
    try:
        first.begin_transaction()
        first.send(target, b"from a zombie")
        first.commit_transaction()
    except (errors.ProducerFencedError, errors.InvalidProducerEpochError):
        pass
    else:
        raise AssertionError("the first producer was not fenced")
    second.begin_transaction()
    second.abort_transaction()
    second.close()


def main(bootstrap, source, target, group, count):
    bootstrap = bootstrap.split(",")
    first = copy(bootstrap, source, target, group, int(count))
    check_fencing(bootstrap, group, target, first)


if __name__ == "__main__":
    main(*sys.argv[1:])
