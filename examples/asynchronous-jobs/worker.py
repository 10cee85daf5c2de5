"""A worker: takes jobs, does them, says what came of each. Start as many as there is work for, and stop any at any time.

    worker.py JOBS_TOPIC DONE_TOPIC FAILED_TOPIC
"""

import json
import os
import signal
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

BATCH = 20
WORK_SECONDS = 0.01
# The jobs were given to others since they were taken.
NOT_OURS = (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS)


class Worker:
    def __init__(self, jobs, done, failed):
        self.done, self.failed = done, failed
        self.stopping = False
        bootstrap = os.environ["BOOTSTRAP_SERVERS"]
        self.consumer = Consumer({
            "bootstrap.servers": bootstrap,
            "group.id": f"{jobs}-workers",
            "auto.offset.reset": "earliest",
            # A job is taken off the queue after it was done, never before: see `run`.
            "enable.auto.commit": False,
            "partition.assignment.strategy": "cooperative-sticky",
            # How long the jobs of a worker that died wait for another one.
            "session.timeout.ms": 6000,
        })
        self.consumer.subscribe([jobs])
        self.producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})

    def stop(self, *_):
        """SIGTERM: what is begun is ended, then the worker leaves and its partitions go to others at once."""
        self.stopping = True

    def run(self):
        try:
            while not self.stopping:
                jobs = self.consumer.consume(BATCH, timeout=0.5)
                for job in jobs:
                    if job.error():
                        raise RuntimeError(job.error())
                    self.handle(job)
                # First the results are safe, then the jobs are off the queue. A crash between the two does some jobs twice
                # and loses none; who reads the results tells a repeated job by its id.
                if jobs:
                    if self.producer.flush(30):
                        raise RuntimeError("results could not be written")
                    self.commit()
        finally:
            self.consumer.close()

    def commit(self):
        try:
            self.consumer.commit(asynchronous=False)
        except KafkaException as error:
            # Whoever has them now does them again, which is the same as after a crash.
            if error.args[0].code() not in NOT_OURS:
                raise

    def handle(self, message):
        job = json.loads(message.value())
        try:
            result = {"id": job["id"], "total": do(job), "worker": os.getpid()}
            self.producer.produce(self.done, key=job["id"], value=json.dumps(result), on_delivery=must_arrive)
        except ValueError as error:
            # A job that can never succeed must not stop the ones behind it: it goes to a topic for people to look at.
            self.producer.produce(self.failed, key=job["id"], value=message.value(), headers={"reason": str(error)},
                                  on_delivery=must_arrive)


def do(job):
    """The work itself: slow, and now and then impossible."""
    time.sleep(WORK_SECONDS)
    if job["price"] < 0:
        raise ValueError(f"a price of {job['price']}")
    return job["quantity"] * job["price"]


def must_arrive(error, _):
    if error:
        raise RuntimeError(f"a result was refused: {error}")


if __name__ == "__main__":
    worker = Worker(*sys.argv[1:4])
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, worker.stop)
    worker.run()
