"""The side of the web application: it accepts a job and answers at once; somebody else does the work.

    submit.py TOPIC COUNT
"""

import json
import os
import sys

from confluent_kafka import Producer


class JobQueue:
    """Where a request handler leaves its jobs. A job counts as accepted when every in-sync replica has it."""

    def __init__(self, topic):
        self.topic = topic
        self.refused = []
        # Idempotence implies acks=all, and a send that is tried again does not make a second job.
        self.producer = Producer({
            "bootstrap.servers": os.environ["BOOTSTRAP_SERVERS"],
            "enable.idempotence": True,
            "linger.ms": 5,
        })

    def submit(self, job):
        # Jobs of one customer have one key: they lie in one partition and are done in the order of submission.
        self.producer.produce(self.topic, key=job["customer"], value=json.dumps(job), on_delivery=self._delivered)
        self.producer.poll(0)

    def accepted(self):
        """Waits until every job so far is safe; only now may the browser hear "202 Accepted"."""
        left = self.producer.flush(60)
        if left or self.refused:
            raise RuntimeError(f"{left + len(self.refused)} jobs were not accepted: {self.refused[:1]}")

    def _delivered(self, error, message):
        if error:
            self.refused.append(str(error))


def invoice(number):
    """One in fifty has a mistake in it that no repetition will mend."""
    price = -1 if number % 50 == 7 else 100 + number % 13
    return {"id": f"invoice-{number}", "customer": f"customer-{number % 20}", "quantity": 1 + number % 3, "price": price}


def main(topic, count):
    queue = JobQueue(topic)
    for number in range(count):
        queue.submit(invoice(number))
    queue.accepted()
    print(f"{count} jobs accepted")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
