"""kcat (Debian): kcat.py BOOTSTRAP TOPIC GROUP COUNT. kcat has no create: the topic must be there already."""

import os
import re
import subprocess
import sys
import threading

import interop

SEPARATOR = "\t"


def kcat(*args, stdin=None):
    done = subprocess.run(["kcat", *args], input=stdin, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, f"kcat {' '.join(args)}: {done.stderr.decode().strip()[-300:]}"
    return done.stdout.decode()


def listed(bootstrap, topic):
    interop.wait_for("topic in the list", 20, lambda: f'topic "{topic}"' in kcat("-L", "-b", bootstrap))


def described(bootstrap, topic):
    def whole():
        text = kcat("-L", "-b", bootstrap, "-t", topic)
        lines = re.findall(r"partition \d+, leader (\d+), replicas: ([\d,]+), isrs: ([\d,]+)", text)
        return len(lines) == interop.PARTITIONS and all(
            len(r.split(",")) == len(i.split(",")) == interop.REPLICATION for _, r, i in lines
        )

    interop.wait_for("three partitions, each with three replicas in sync", 30, whole)


def produce(bootstrap, topic, count):
    lines = b"".join(interop.key(i) + b"\t" + interop.value(i) + b"\n" for i in range(count))
    kcat("-P", "-b", bootstrap, "-t", topic, "-K", SEPARATOR, "-X", "acks=all", "-X", "enable.idempotence=true", stdin=lines)


class Member:
    """A `kcat -G` process whose output goes to the ledger."""

    def __init__(self, name, bootstrap, topic, group, ledger, *options):
        self.name, self.ledger = name, ledger
        self.assigned = 0
        self.process = subprocess.Popen(
            ["kcat", "-b", bootstrap, "-X", "auto.offset.reset=earliest", *options, "-u",
             "-f", "%p\t%o\t%k\t%s\n", "-G", group, topic],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        self.readers = [threading.Thread(target=f, daemon=True) for f in (self.read_records, self.read_notices)]
        for reader in self.readers:
            reader.start()

    def read_records(self):
        for line in self.process.stdout:
            partition, offset, record_key, record_value = line.rstrip(b"\n").split(b"\t")
            self.ledger.add(self.name, int(partition), int(offset), record_key, record_value)

    def read_notices(self):
        for line in self.process.stderr:
            if b"assigned:" in line:
                self.assigned = len(re.findall(rb"\[\d+\]", line.split(b"assigned:")[1]))
            elif b"revoked:" in line:
                self.assigned = 0

    def end(self):
        """SIGINT makes kcat leave the group, which commits what it printed."""
        self.process.send_signal(2)
        status = self.process.wait(30)
        for reader in self.readers:
            reader.join(10)
        assert status == 0, f"{self.name} ended with {status}"


def group_of_two(bootstrap, topic, group, ledger):
    members = [Member(f"member-{i}", bootstrap, topic, group, ledger) for i in range(2)]

    def settled():
        assert all(m.process.poll() is None for m in members), "a member ended"
        both = [m.assigned for m in members]
        return all(both) and sum(both) == interop.PARTITIONS

    interop.wait_for("both members have partitions", 60, settled)
    return members


def consume(bootstrap, topic, group, count, members, ledger):
    interop.wait_for("all records", 90, lambda: ledger.count >= count)
    for member in members:
        member.end()
    ledger.verify(count)
    # The next member of the group starts at the committed offsets: nothing is left for it.
    again = kcat("-b", bootstrap, "-X", "auto.offset.reset=earliest", "-e", "-f", "%p %o\n", "-G", group, topic)
    assert again == "", f"records after the committed offsets: {again.splitlines()[:3]}"


def main(bootstrap, topic, group, count):
    version = re.search(r"Version ([\d.]+).*librdkafka ([\d.]+)", kcat("-V").replace("\n", " ")).groups()
    report = interop.Report("kcat", "/".join(version))
    report.step("list", lambda: listed(bootstrap, topic))
    report.step("describe", lambda: described(bootstrap, topic))
    ledger = interop.Ledger()
    members = report.step("consume", lambda: group_of_two(bootstrap, topic, group, ledger))
    report.step("produce", lambda: produce(bootstrap, topic, count))
    report.step("consume", lambda: consume(bootstrap, topic, group, count, members, ledger))
    for member in members or []:
        if member.process.poll() is None:
            member.process.kill()
    return report.end()


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    sys.stdout.flush()
    os._exit(status)
