"""Submits jobs, runs three workers, kills one of them in the middle, and checks that every job was done.

    BOOTSTRAP_SERVERS=127.0.0.1:9092 venv/bin/python demo.py
"""

import json
import os
import signal
import subprocess
import sys
import time

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import submit

COUNT = 1000
PARTITIONS = 6
LIMIT_SECONDS = 90

BOOTSTRAP = os.environ["BOOTSTRAP_SERVERS"]
RUN = int(time.time())
JOBS, DONE, FAILED = f"jobs-{RUN}", f"jobs-done-{RUN}", f"jobs-failed-{RUN}"


def create_topics():
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    topics = [NewTopic(JOBS, PARTITIONS), NewTopic(DONE, PARTITIONS), NewTopic(FAILED, 1)]
    for created in admin.create_topics(topics).values():
        created.result(30)


def start_worker():
    return subprocess.Popen([sys.executable, "worker.py", JOBS, DONE, FAILED])


class Results:
    """What came of the jobs: how often each was done, and which were put aside."""

    def __init__(self):
        self.totals, self.repeated, self.failed = {}, 0, {}
        self.consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": f"results-{RUN}",
                                  "auto.offset.reset": "earliest", "enable.auto.commit": False})
        self.consumer.subscribe([DONE, FAILED])

    def wait_for(self, count):
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(self.totals) + len(self.failed) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.totals)} jobs done and {len(self.failed)} put aside of {count}")
            for message in self.consumer.consume(100, timeout=0.5):
                if message.error() is None:
                    self.note(message)

    def note(self, message):
        result = json.loads(message.value())
        seen = self.totals if message.topic() == DONE else self.failed
        self.repeated += result["id"] in seen
        seen[result["id"]] = result.get("total")


def jobs_left():
    """Jobs that are still on the queue, as the group's committed offsets say."""
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": f"{JOBS}-workers"})
    committed = consumer.committed([TopicPartition(JOBS, p) for p in range(PARTITIONS)], timeout=20)
    left = sum(consumer.get_watermark_offsets(p, timeout=20)[1] - max(p.offset, 0) for p in committed)
    consumer.close()
    return left


def main():
    create_topics()
    submit.main(JOBS, COUNT)
    workers = [start_worker() for _ in range(3)]
    try:
        results = Results()
        results.wait_for(COUNT // 4)
        print(f"{COUNT // 4} jobs done: killing worker {workers[0].pid} in the middle of its work")
        workers[0].send_signal(signal.SIGKILL)
        results.wait_for(COUNT)
        for worker in workers[1:]:
            worker.send_signal(signal.SIGTERM)
        exits = [worker.wait(30) for worker in workers[1:]]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()

    jobs = [submit.invoice(number) for number in range(COUNT)]
    good = {job["id"]: job["quantity"] * job["price"] for job in jobs if job["price"] > 0}
    assert results.totals == good, "a job is missing, or its result is wrong"
    assert set(results.failed) == {job["id"] for job in jobs} - set(good), "the wrong jobs were put aside"
    assert exits == [0, 0], f"a worker did not stop cleanly: {exits}"
    assert jobs_left() == 0, f"{jobs_left()} jobs are still on the queue"
    print(f"proved: {len(good)} jobs done and {len(results.failed)} impossible ones put aside, none lost with the worker that "
          f"was killed; {results.repeated} were done twice because of it")


if __name__ == "__main__":
    main()
