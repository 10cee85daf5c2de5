"""bench.py: what a start, a topic and a record cost, as figures on one page.

    bench.py --system kafka|odradek [--binary PATH] [--records 1000000] [--skip-load]

One node: from its start to the first acknowledged record, idle memory and CPU. Three nodes: from the start until all are
ready, topics created one after another, and the throughput of Kafka's own performance tools.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

import interop
import systems

QUICK = {"reconnect.backoff.ms": 1, "reconnect.backoff.max.ms": 5, "retry.backoff.ms": 2, "retry.backoff.max.ms": 5,
         "topic.metadata.refresh.fast.interval.ms": 2, "linger.ms": 0, "log_level": 0, "acks": "all",
         "allow.auto.create.topics": True}


def first_ack(bootstrap, topic, begin):
    """Milliseconds from `begin` to the acknowledgement of one record, by a client that tries again at once."""
    producer, done = Producer({"bootstrap.servers": bootstrap, **QUICK}), []

    def delivered(error, _):
        done.append((error, time.monotonic()))

    producer.produce(topic, b"first", on_delivery=delivered)
    producer.flush(60)
    error, at = done[0]
    assert error is None, error
    return round((at - begin) * 1000)


def ticks_and_rss(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    rss = int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))
    return int(fields[11]) + int(fields[12]), rss


def one_node(settings, folder):
    node = make(settings, folder, 1)
    node.prepare()
    try:
        begin = time.monotonic()
        node.up(1)
        row = {"start_to_first_ack_ms": first_ack(node.bootstrap, "first", begin)}
        systems.until(time.monotonic() + settings.settle)
        before, _ = ticks_and_rss(node.pid(1))
        idle_from = time.monotonic()
        systems.until(idle_from + settings.idle)
        after, rss = ticks_and_rss(node.pid(1))
        ticks = os.sysconf("SC_CLK_TCK")
        row["idle_rss_mib"] = round(rss / 1024, 1)
        row["idle_cpu_percent"] = round(100 * (after - before) / ticks / (time.monotonic() - idle_from), 2)
        return row
    finally:
        node.stop()


def three_nodes(settings, folder):
    cluster = make(settings, folder, 3)
    begin, ready = start_three(cluster)
    try:
        row = {"three_brokers_ms": round((ready - begin) * 1000)}
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap, **{k: v for k, v in QUICK.items() if "backoff" in k}})
        row["create_topic_ms"] = topics(admin, settings.topics)
        if not settings.skip_load:
            admin.create_topics([NewTopic("bench", 6, 3)])["bench"].result(30)
            row.update(throughput(cluster.bootstrap, settings.records))
        return row
    finally:
        cluster.stop()


def start_three(cluster):
    """When three nodes were started, and when all were ready; `odradek cluster` says the latter itself."""
    if isinstance(cluster, systems.OwnFiles):
        cluster.prepare()
        begin = time.monotonic()
        cluster.launch_all()
        cluster.wait_ready()
        return begin, time.monotonic()
    cluster.claim_ports()
    begin = time.monotonic()
    cluster.launch_cluster()
    interop.wait_for("the cluster's bootstrap servers", 30, lambda: "bootstrap servers" in cluster.said(), pause=0.005)
    ready = time.monotonic()
    cluster.learn_listeners()
    return begin, ready


def topics(admin, count):
    """Median and worst milliseconds of creating topics one after another."""
    times = []
    for i in range(count):
        begin = time.monotonic()
        name = f"bench-{i}"
        admin.create_topics([NewTopic(name, 3, 3)], operation_timeout=0)[name].result(30)
        times.append((time.monotonic() - begin) * 1000)
    return {"median": round(statistics.median(times), 1), "mean": round(statistics.mean(times), 1), "max": round(max(times), 1)}


def tool(class_name, *arguments):
    argv = ["java", "-Xmx512m", "-XX:+UseG1GC", "-Dlog4j2.level=ERROR", "-cp", f"{os.environ['JARS']}/*", class_name, *arguments]
    done = subprocess.run(argv, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    return done.stdout.decode()


def throughput(bootstrap, records):
    text = tool("org.apache.kafka.tools.ProducerPerformance", "--topic", "bench", "--num-records", str(records),
                "--record-size", "100", "--throughput", "-1", "--bootstrap-server", bootstrap,
                "--command-property", "acks=all")
    last = [line for line in text.splitlines() if "records sent" in line][-1]
    row = {"produce_records_s": round(float(re.search(r"([\d.]+) records/sec", last).group(1)))}
    for name, unit in (("50th", "p50_ms"), ("99th", "p99_ms")):
        row[f"produce_{unit}"] = int(re.search(rf"(\d+) ms {name}", last).group(1))
    text = tool("org.apache.kafka.tools.ConsumerPerformance", "--topic", "bench", "--num-records", str(records),
                "--bootstrap-server", bootstrap, "--group", "bench")
    head, values = [line for line in text.splitlines() if "," in line][:2]
    columns = dict(zip([c.strip() for c in head.split(",")], [v.strip() for v in values.split(",")]))
    rate = next(v for k, v in columns.items() if k.lower().startswith("fetch.nmsg") or k == "fetch.nMsg.sec")
    row["consume_records_s"] = round(float(rate))
    return row


def median(values):
    """The median of each figure."""
    if isinstance(values[0], dict):
        return {name: median([value[name] for value in values]) for name in values[0]}
    return statistics.median(values)


def make(settings, folder, count):
    place = pathlib.Path(folder) / f"{count}"
    place.mkdir()
    if settings.system == "kafka":
        return systems.ApacheKafka(place, settings.base_port, count)
    kind = systems.OdradekNodes if count == 1 else systems.Odradek
    return kind(place, settings.base_port, count, binary=settings.binary)


def main(argv):
    parser = argparse.ArgumentParser(description="what a start, a topic and a record cost")
    parser.add_argument("--system", choices=("kafka", "odradek"), default="odradek")
    parser.add_argument("--binary", default="odradek")
    parser.add_argument("--base-port", type=int, default=27492)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--topics", type=int, default=100)
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before the idle figures")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds of the idle figures")
    parser.add_argument("--repeat", type=int, default=1, help="runs, of whose figures the medians are shown")
    parser.add_argument("--skip-load", action="store_true")
    settings = parser.parse_args(argv)
    runs = []
    for number in range(1, settings.repeat + 1):
        with tempfile.TemporaryDirectory(prefix="odradek-bench-") as folder:
            load = os.getloadavg()[0]
            runs.append({"one_node": one_node(settings, folder), "three_nodes": three_nodes(settings, folder)})
        print(f"run {number}, load before it {load:.1f}: {json.dumps(runs[-1])}", flush=True)
    print(json.dumps({"system": settings.system, "runs": settings.repeat, "median": median(runs)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
