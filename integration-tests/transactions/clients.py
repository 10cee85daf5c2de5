"""The transactional calls of kafka-python, confluent-kafka and franz-go: consume, transform, produce; aborts; fencing.

    clients.py [--system kafka|odradek] [--records 6000] [--clients kafka-python,confluent-kafka,franz-go] [--every 0]

Each client copies a topic in transactions of up to 500 records, of which it aborts every third and then does it again; it
commits the offsets within the transaction. Then a second producer takes its transactional id, and the first must be told that
it is fenced. The output is counted under read_committed.
"""

import os
import pathlib
import sys
import time

import applications

HERE = pathlib.Path(__file__).parent
PARTITIONS = 3
LIMIT_SECONDS = 240


def argv_of(client):
    cache = os.environ["CLIENTS_CACHE"]
    return {
        "kafka-python": [sys.executable, "-B", str(HERE / "copy_kafka_python.py")],
        "confluent-kafka": [sys.executable, "-B", str(HERE / "copy_confluent.py")],
        "franz-go": [f"{cache}/transactions-franz"],
    }[client]


def copy(stage, settings, client):
    kills, began = stage.kills, time.monotonic()
    source, target = f"source-{client}", f"target-{client}"
    stage.create(source, target, partitions=PARTITIONS)
    stage.produce(source, [(b"%d" % i, b"record %d" % i) for i in range(settings.records)])
    with stage.killing(first=3.0):
        program = stage.start(client, [*argv_of(client), stage.bootstrap, source, target, f"group-{client}", str(settings.records)])
        code = program.wait(LIMIT_SECONDS)
    sent = [key for rows in stage.read(source).values() for _, key, _ in rows]
    copied = [key for rows in stage.read(target).values() for _, key, _ in rows]
    uncommitted = sum(len(rows) for rows in stage.read(target, isolation="read_uncommitted").values())
    counts = applications.compare(sent, copied)
    committed, end = stage.committed(f"group-{client}", source), stage.ends(source)
    verdict = "ok"
    if code or applications.wrong(counts):
        verdict = f"FAILED: exit code {code}"
        print(program.said()[-3000:], file=sys.stderr)
    elif committed != end:
        verdict = f"FAILED: committed {committed} of {end}"
    elif uncommitted == counts["found"]:
        verdict = "FAILED: nothing was aborted"
    return {"harness": "transactional calls", "client": client, "kills": stage.kills - kills, "seconds": round(time.monotonic() - began),
            **counts, "aborted": uncommitted - counts["found"], "verdict": verdict}


def run(settings, folder):
    with applications.Stage(settings, folder) as stage:
        return [copy(stage, settings, client) for client in settings.clients.split(",")]


def settings_from(argv):
    flags = applications.parser("transactional calls of clients")
    flags.add_argument("--records", type=int, default=6000)
    flags.add_argument("--clients", default="kafka-python,confluent-kafka,franz-go")
    flags.set_defaults(every=0)
    return flags.parse_args(argv)


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
