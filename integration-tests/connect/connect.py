"""Kafka Connect: a file of lines to a topic to a file, while a worker and a broker are killed on the way.

    connect.py [--system kafka|odradek] [--guarantee at_least_once|exactly_once] [--lines 1000000]

at_least_once: two distributed workers run the source and the sink; the worker that runs the sink is killed with kill -9, then
a broker, and both come back. No line may be missing from the topic or from the file; the file sink may repeat what it had not
committed, and leave the line torn that it was writing when it was killed.

exactly_once: exactly.once.source.support is on; two distributed workers run the source, and the one that runs it is killed,
then a broker. The sink, which Kafka gives no exactly-once support, runs on a standalone worker that stays. Every line must be
in the topic and in the file exactly once.
"""

import json
import os
import sys
import time
import urllib.request

import applications
import interop

DISTRIBUTED = "org.apache.kafka.connect.cli.ConnectDistributed"
STANDALONE = "org.apache.kafka.connect.cli.ConnectStandalone"
TOPIC = "lines"
LIMIT_SECONDS = 420
# Lines as long as those of a log.
PAD = "a line of a log, of the usual length and with nothing in it "


class Worker:
    """A distributed worker; its REST port is its name in the group."""

    def __init__(self, stage, settings, number):
        self.stage, self.settings, self.number, self.starts = stage, settings, number, 0
        self.port = settings.rest_port + number
        self.program = None

    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        self.starts += 1
        name = f"worker-{self.number}"
        path = self.stage.folder / f"{name}.properties"
        path.write_text("\n".join([
            *common(self.stage, self.port),
            "group.id=connect", "config.storage.topic=connect-configs", "offset.storage.topic=connect-offsets",
            "status.storage.topic=connect-status", "config.storage.replication.factor=3", "offset.storage.replication.factor=3",
            "status.storage.replication.factor=3", "offset.storage.partitions=5", "status.storage.partitions=2",
            "session.timeout.ms=10000", "heartbeat.interval.ms=3000", "scheduled.rebalance.max.delay.ms=3000",
            f"exactly.once.source.support={'enabled' if exactly_once(self.settings) else 'disabled'}",
        ]) + "\n")
        self.program = self.stage.java(f"{name}-{self.starts}", os.environ["CONNECT_JARS"], DISTRIBUTED, str(path), heap="512m")

    def answers(self):
        try:
            self.ask("/connectors")
            return True
        except (OSError, ValueError):
            return False

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address()}{path}", data=data, method="GET" if body is None else "PUT",
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=90) as answer:
            return json.load(answer)

    def status(self, connector):
        """State and worker of the connector's one task, or nothing while there is none."""
        try:
            tasks = self.ask(f"/connectors/{connector}/status")["tasks"]
        except (OSError, ValueError):
            return None, None
        return (tasks[0]["state"], tasks[0]["worker_id"]) if tasks else (None, None)


def exactly_once(settings):
    return settings.guarantee == "exactly_once"


def common(stage, port):
    """What both kinds of worker have. Sinks read committed records only; flushing often keeps what is repeated short."""
    return [
        f"bootstrap.servers={stage.bootstrap}", f"listeners=http://127.0.0.1:{port}", "plugin.discovery=service_load",
        "key.converter=org.apache.kafka.connect.storage.StringConverter",
        "value.converter=org.apache.kafka.connect.storage.StringConverter",
        "offset.flush.interval.ms=1000", "consumer.isolation.level=read_committed", "consumer.session.timeout.ms=10000",
    ]


def source(stage):
    return {"name": "source", "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector", "tasks.max": "1",
            "file": str(stage.folder / "in.txt"), "topic": TOPIC, "batch.size": "1000"}


def sink(stage):
    return {"name": "sink", "connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector", "tasks.max": "1",
            "file": str(stage.folder / "out.txt"), "topics": TOPIC}


def standalone_sink(stage, settings):
    """A standalone worker with the sink."""
    worker, connector = stage.folder / "standalone.properties", stage.folder / "sink.properties"
    worker.write_text("\n".join([*common(stage, settings.rest_port + 9),
                                 f"offset.storage.file.filename={stage.folder}/standalone.offsets"]) + "\n")
    connector.write_text("\n".join(f"{k}={v}" for k, v in sink(stage).items()) + "\n")
    return stage.java("standalone", os.environ["CONNECT_JARS"], STANDALONE, str(worker), str(connector), heap="512m")


def written(stage):
    """Offsets of the topic, ends of transactions among them."""
    return sum(stage.ends(TOPIC).values())


def interrupt(stage, workers, victim_of, lines):
    """Kills the worker that runs a task, and a broker, each when the lines have come a quarter further; both come back."""
    interop.wait_for("a quarter of the lines", LIMIT_SECONDS, lambda: written(stage) >= lines // 4)
    _, address = next(status for w in workers if (status := w.status(victim_of))[1])
    victim = next(worker for worker in workers if worker.address() == address)
    victim.program.kill()
    print(f"  kill -9 of worker {victim.number}, which runs the {victim_of}, at {written(stage)} records", flush=True)
    victim.start()
    interop.wait_for("half of the lines", LIMIT_SECONDS, lambda: written(stage) >= lines // 2)
    if stage.settings.every:
        node = stage.random.choice(list(stage.system.numbers()))
        stage.kill_broker(node)
        time.sleep(stage.settings.down)
        stage.system.up(node)


def drained(stage, lines):
    """Whether every line is in the file, and the sink has committed the last record of every partition."""
    if not lines <= set(written_to(stage)):
        return False
    committed = stage.committed("connect-sink", TOPIC)
    return all(committed[p] > rows[-1][0] for p, rows in stage.read(TOPIC).items() if rows)


def written_to(stage):
    return (stage.folder / "out.txt").read_text().splitlines()


def run(settings, folder):
    with applications.Stage(settings, folder) as stage:
        print(f"seed {stage.seed}")
        began = time.monotonic()
        lines = [f"{i:07d} {PAD}" for i in range(settings.lines)]
        (stage.folder / "in.txt").write_text("".join(f"{line}\n" for line in lines))
        stage.create(TOPIC, partitions=3)
        workers = [Worker(stage, settings, number) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            interop.wait_for(f"worker {worker.number} answers", 180, worker.answers)
        if exactly_once(settings):
            standalone_sink(stage, settings)
        else:
            workers[0].ask("/connectors/sink/config", sink(stage))
            interop.wait_for("the sink runs", 120, lambda: workers[0].status("sink")[0] == "RUNNING")
        copying = time.monotonic()
        workers[0].ask("/connectors/source/config", source(stage))
        interrupt(stage, workers, "source" if exactly_once(settings) else "sink", settings.lines)
        every = set(lines)
        interop.wait_for("the whole file copied", LIMIT_SECONDS, lambda: drained(stage, every), pause=2)
        took = time.monotonic() - copying
        stage.wait_whole()
        in_topic = (value.decode() for rows in stage.read(TOPIC).values() for _, _, value in rows)
        topic = applications.compare(lines, in_topic)
        file = applications.compare(lines, written_to(stage))
        torn = file["alien"] if not exactly_once(settings) and file["alien"] <= 1 else 0
        bad = applications.wrong(topic, not exactly_once(settings)) or applications.wrong(
            {**file, "alien": file["alien"] - torn}, not exactly_once(settings))
        if bad:
            stage.show_logs()
        return [{"harness": "Connect", "guarantee": settings.guarantee, "kills": stage.kills + 1, "seconds": round(took),
                 "all seconds": round(time.monotonic() - began), "lines": settings.lines, "topic missing": topic["missing"],
                 "topic repeated": topic["repeated"], "file missing": file["missing"], "file repeated": file["repeated"],
                 "file torn": torn, "verdict": "FAILED" if bad else "ok"}]


def settings_from(argv):
    flags = applications.parser("Kafka Connect with a worker and a broker killed")
    flags.add_argument("--guarantee", choices=("at_least_once", "exactly_once"), default="exactly_once")
    flags.add_argument("--lines", type=int, default=1_000_000)
    flags.add_argument("--rest-port", type=int, default=28083)
    return flags.parse_args(argv)


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
