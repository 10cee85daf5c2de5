"""Runs on a host and publishes what it measures."""

import json

from kafka import KafkaProducer


class Agent:
    """Publishes the readings of one host. A single reading is worth little: the agent never waits for the cluster."""

    def __init__(self, bootstrap, topic, host):
        self.topic, self.host = topic, host
        # Idempotent, as the client is by default: a reading that is sent again after a lost answer neither counts twice nor
        # overtakes the ones behind it.
        self.producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            linger_ms=100,
            compression_type="gzip",
            key_serializer=str.encode,
            value_serializer=lambda reading: json.dumps(reading).encode(),
        )

    def publish(self, metric, value, at_seconds):
        """One reading; its record carries the time at which it was taken, not the one at which it was sent."""
        reading = {"host": self.host, "metric": metric, "value": value, "at": at_seconds}
        self.producer.send(self.topic, key=f"{self.host}/{metric}", value=reading, timestamp_ms=at_seconds * 1000)

    def close(self):
        self.producer.close(timeout=30)
