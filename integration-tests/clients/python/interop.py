"""What every client program here checks, once: the records of a run, and how a run is reported.

A run produces `count` records from one sender, so that the number inside a record rises with the offset in every
partition. `Ledger` takes what the members of a group received and says how it differs from that.
"""

import collections
import json
import sys
import threading
import time
import traceback

PARTITIONS = 3
REPLICATION = 3
PADDING = "odradek " * 10


def key(i):
    return f"key-{i % 97}".encode()


def value(i):
    return f"{i:06d} {PADDING}".encode()


class Ledger:
    """Received records, in the order of receipt for each partition. Filled by the members' threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.rows = collections.defaultdict(list)
        self.members = collections.defaultdict(set)
        self.count = 0

    def add(self, member, partition, offset, record_key, record_value):
        with self.lock:
            self.rows[partition].append((offset, bytes(record_key or b""), bytes(record_value or b"")))
            self.members[partition].add(member)
            self.count += 1

    def verify(self, count, acked=None):
        """Raises AssertionError at the first difference. `acked` maps a record's number to (partition, offset)."""
        seen = {}
        for partition, rows in sorted(self.rows.items()):
            assert 0 <= partition < PARTITIONS, f"partition {partition} does not exist"
            offsets = [offset for offset, _, _ in rows]
            assert offsets == list(range(len(rows))), f"partition {partition}: {first_gap(offsets)}"
            last = -1
            for offset, record_key, record_value in rows:
                i = int(record_value[:6])
                where = f"partition {partition} offset {offset}"
                assert record_value == value(i) and record_key == key(i), f"{where}: a damaged record {i}"
                assert i > last, f"{where}: record {i} came after record {last}"
                assert i not in seen, f"{where}: record {i} was already at {seen[i]}"
                last, seen[i] = i, (partition, offset)
            assert len(self.members[partition]) == 1, f"partition {partition} was read by {self.members[partition]}"
        missing = [i for i in range(count) if i not in seen]
        assert not missing and len(seen) == count, f"{len(missing)} records missing, first {missing[:3]}"
        assert len(set().union(*self.members.values())) == 2, f"members that got records: {dict(self.members)}"
        if acked is not None:
            wrong = [i for i in range(count) if acked.get(i) != seen[i]]
            assert not wrong, f"record {wrong[0]}: acknowledged at {acked.get(wrong[0])}, found at {seen[wrong[0]]}"


def first_gap(offsets):
    for expected, offset in enumerate(offsets):
        if offset != expected:
            return f"receipt {expected} has offset {offset}"
    return "no gap"


def wait_for(what, seconds, condition, pause=0.1):
    """Polls `condition` until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(pause)


class Report:
    """The one JSON line of a program. `step` runs a function under a column's name and stops at the first failure."""

    COLUMNS = ("create", "list", "describe", "produce", "consume")

    def __init__(self, client, version):
        self.row = {"client": client, "version": version, **{c: "-" for c in self.COLUMNS}}
        self.failed = None

    def step(self, column, function):
        if self.failed:
            return None
        try:
            result = function()
            self.row[column] = "ok"
            return result
        except Exception as error:
            self.failed = f"{column}: {type(error).__name__}: {error}"
            self.row[column] = "FAILED"
            traceback.print_exc(file=sys.stderr)
            return None

    def end(self):
        self.row["detail"] = self.failed or ""
        print(json.dumps(self.row), flush=True)
        return 1 if self.failed else 0
