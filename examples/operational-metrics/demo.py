"""Ten minutes of four hosts in a few seconds; one of them runs hot for two minutes. A dashboard opens afterwards.

    BOOTSTRAP_SERVERS=127.0.0.1:9092 venv/bin/python demo.py
"""

import json
import os
import time

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from agent import Agent
from monitor import WINDOW_SECONDS, Monitor

HOSTS = [f"host-{i}" for i in range(4)]
MINUTES = 10
EVERY_SECONDS = 5
HOT_HOST, HOT_MINUTES = "host-2", (4, 5)
PARTITIONS = 3
LIMIT_SECONDS = 60

BOOTSTRAP = os.environ["BOOTSTRAP_SERVERS"].split(",")
# The minutes lie in the past, so that the demo need not wait for them.
BEGIN = (int(time.time()) // WINDOW_SECONDS - MINUTES - 2) * WINDOW_SECONDS
READINGS, LATEST = f"readings-{int(time.time())}", f"readings-latest-{int(time.time())}"


def create_topics():
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    admin.create_topics([
        # Raw readings are of use for an hour.
        NewTopic(READINGS, PARTITIONS, topic_configs={"retention.ms": "3600000"}),
        NewTopic(LATEST, 1, topic_configs={"cleanup.policy": "compact"}),
    ], timeout_ms=30000, wait_for_metadata=True)
    admin.close()


def cpu(host, second):
    """What the host measures at a second: something about 40, or 97 while it is hot."""
    if host == HOT_HOST and second // WINDOW_SECONDS in HOT_MINUTES:
        return 97
    return 35 + (second // EVERY_SECONDS + int(host[-1]) * 3) % 11


def measure():
    agents = [Agent(BOOTSTRAP, READINGS, host) for host in HOSTS]
    # A little longer than the last minute, so that the last minute is over.
    for second in range(0, (MINUTES + 1) * WINDOW_SECONDS + 15, EVERY_SECONDS):
        for agent in agents:
            agent.publish("cpu", cpu(agent.host, second), BEGIN + second)
            agent.publish("requests", second % 7, BEGIN + second)
    for agent in agents:
        agent.close()


def dashboard():
    """What a dashboard shows at once when it is opened: the last average of every series."""
    consumer = KafkaConsumer(bootstrap_servers=BOOTSTRAP, value_deserializer=json.loads, key_deserializer=bytes.decode)
    partition = TopicPartition(LATEST, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end, shown = consumer.end_offsets([partition])[partition], {}
    while consumer.position(partition) < end:
        for record in consumer.poll(timeout_ms=500).get(partition, []):
            shown[record.key] = record.value
    consumer.close()
    return shown


def average(host, minute):
    seconds = range(minute * WINDOW_SECONDS, (minute + 1) * WINDOW_SECONDS, EVERY_SECONDS)
    return sum(cpu(host, second) for second in seconds) / len(seconds)


def main():
    create_topics()
    alarms = []
    monitor = Monitor(BOOTSTRAP, READINGS, LATEST, alarms.append)
    measure()
    # Of each host two series, and of each series the minutes that are over.
    expected = len(HOSTS) * 2 * (MINUTES + 1)
    deadline = time.monotonic() + LIMIT_SECONDS
    while len(monitor.averages) < expected:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(monitor.averages)} of {expected} averages")
        monitor.poll()
    monitor.close()

    for found in (a for a in monitor.averages if a["metric"] == "cpu"):
        minute = (found["minute"] - BEGIN) // WINDOW_SECONDS
        assert found["average"] == average(found["host"], minute), f"a wrong average: {found}"
        assert found["readings"] == WINDOW_SECONDS // EVERY_SECONDS, f"readings are missing: {found}"
    assert len(alarms) == len(HOT_MINUTES) and all(a.startswith(HOT_HOST) for a in alarms), f"wrong alarms: {alarms}"
    shown = dashboard()
    assert set(shown) == {f"{host}/{metric}" for host in HOSTS for metric in ("cpu", "requests")}, f"it shows {set(shown)}"
    last = BEGIN + MINUTES * WINDOW_SECONDS
    assert all(a["minute"] == last for a in shown.values()), f"the dashboard is not up to date: {shown}"
    for line in alarms:
        print(f"alarm: {line}")
    print(f"proved: {expected} averages of {len(HOSTS)} hosts are right to the last digit, {HOT_HOST} raised its {len(alarms)} alarms and "
          f"no other host any, and a dashboard that opened later shows the last minute of all {len(shown)} series")


if __name__ == "__main__":
    main()
