"""Apache Kafka's own command line tools: kafka_tools.py BOOTSTRAP TOPIC GROUP COUNT. Prints one JSON line for each tool.

The tools work together as an operator uses them: kafka-topics makes the topic, the console tools fill and read it,
kafka-consumer-groups watches the group, and the others ask and change the cluster.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading

import interop

JARS = os.environ["JARS"]
VERSION = os.environ["KAFKA_VERSION"]
CLASSES = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
}


def command(tool, *args):
    flags = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=ERROR"]
    return ["java", *flags, "-cp", f"{JARS}/*", CLASSES[tool], *args]


def run(tool, *args, stdin=None):
    done = subprocess.run(command(tool, *args), input=stdin, capture_output=True, timeout=120, check=False)
    text = done.stdout.decode()
    assert done.returncode == 0, f"{tool} {' '.join(args)}: {text.strip()[-300:]} {done.stderr.decode().strip()[-300:]}"
    return text


class Cluster:
    def __init__(self, bootstrap, topic, group, count):
        self.bootstrap, self.topic, self.group, self.count = bootstrap, topic, group, count
        self.server = ("--bootstrap-server", bootstrap)
        self.reports = {tool: interop.Report(tool, VERSION) for tool in CLASSES}
        self.ledger = interop.Ledger()
        self.members = []

    def step(self, tool, column, function):
        """Without the topic nothing can pass: its first failure is every later tool's."""
        topics = self.reports["kafka-topics"]
        if topics.failed and tool != "kafka-topics":
            self.reports[tool].failed = f"not tried: kafka-topics, {topics.failed}"
        self.reports[tool].step(column, function)

    def tool(self, tool, *args, stdin=None):
        return run(tool, *self.server, *args, stdin=stdin)

    # kafka-topics

    def create(self):
        self.tool("kafka-topics", "--create", "--topic", self.topic, "--partitions", str(interop.PARTITIONS),
                  "--replication-factor", str(interop.REPLICATION))

    def listed(self):
        assert self.topic in self.tool("kafka-topics", "--list").split(), "the topic is not listed"

    def described(self):
        def whole():
            rows = partitions_of(self.tool("kafka-topics", "--describe", "--topic", self.topic), self.topic)
            return len(rows) == interop.PARTITIONS and all(
                len(r["replicas"]) == len(r["isr"]) == interop.REPLICATION and r["leader"] is not None for r in rows
            )

        interop.wait_for("three partitions, each with three replicas in sync", 60, whole)

    # Console tools

    def group_of_two(self):
        self.members = [ConsoleMember(f"member-{i}", self) for i in range(2)]

        def settled():
            assert all(m.process.poll() is None for m in self.members), "a consumer ended"
            text = run("kafka-consumer-groups", *self.server, "--describe", "--group", self.group, "--members")
            return sorted(int(n) for n in re.findall(r"(\d+)\s*$", text, re.MULTILINE)) == [1, 2]

        interop.wait_for("two members share three partitions", 90, retry_while_absent(settled))

    def produce(self):
        lines = b"".join(interop.key(i) + b"\t" + interop.value(i) + b"\n" for i in range(self.count))
        self.tool("kafka-console-producer", "--topic", self.topic, "--command-property", "acks=all",
                  "--reader-property", "parse.key=true", "--reader-property", "key.separator=\t", stdin=lines)

    def consume(self):
        interop.wait_for("all records", 90, lambda: self.ledger.count >= self.count)
        for member in self.members:
            member.end()
        self.ledger.verify(self.count)

    # kafka-consumer-groups

    def groups_listed(self):
        assert self.group in self.tool("kafka-consumer-groups", "--list").split(), "the group is not listed"

    def groups_described(self):
        text = self.tool("kafka-consumer-groups", "--describe", "--group", self.group)
        rows = re.findall(rf"{re.escape(self.topic)}\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", text)
        assert len(rows) == interop.PARTITIONS, text
        assert sum(int(current) for _, current, _, _ in rows) == self.count, text
        assert all(current == end and lag == "0" for _, current, end, lag in rows), text
        state = self.tool("kafka-consumer-groups", "--describe", "--group", self.group, "--state")
        assert "Empty" in state, state
        reset = self.tool("kafka-consumer-groups", "--group", self.group, "--topic", self.topic, "--reset-offsets",
                          "--to-earliest", "--execute")
        assert len(re.findall(rf"{re.escape(self.topic)}\s+\d+\s+0\s*$", reset, re.MULTILINE)) == 3, reset
        deleted = self.tool("kafka-consumer-groups", "--group", self.group, "--delete")
        assert "success" in deleted, deleted

    # The cluster

    def configs(self):
        entity = ("--entity-type", "topics", "--entity-name", self.topic)
        self.tool("kafka-configs", *entity, "--alter", "--add-config", "retention.ms=86400000,max.message.bytes=2000000")
        text = self.tool("kafka-configs", *entity, "--describe")
        assert "retention.ms=86400000" in text and "max.message.bytes=2000000" in text, text
        self.tool("kafka-configs", *entity, "--alter", "--delete-config", "retention.ms")
        text = self.tool("kafka-configs", *entity, "--describe")
        assert "retention.ms=86400000" not in text and "max.message.bytes=2000000" in text, text
        broker = ("--entity-type", "brokers", "--entity-name", self.brokers()[0])
        text = self.tool("kafka-configs", *broker, "--describe", "--all")
        assert "node.id=" in text and "log.retention.hours=" in text, text[:400]

    def quorum_status(self):
        text = self.tool("kafka-metadata-quorum", "describe", "--status")
        leader = int(re.search(r"LeaderId:\s+(-?\d+)", text).group(1))
        voters = re.search(r"CurrentVoters:\s+(.*)", text).group(1)
        ids = {int(n) for n in re.findall(r'"id": (\d+)', voters)} or {int(n) for n in re.findall(r"\d+", voters)}
        assert leader in ids and len(ids) == 3, text
        assert int(re.search(r"HighWatermark:\s+(-?\d+)", text).group(1)) > 0, text
        text = self.tool("kafka-metadata-quorum", "describe", "--replication")
        roles = re.findall(r"\b(Leader|Follower|Observer)\b\s*$", text, re.MULTILINE)
        assert roles.count("Leader") == 1 and roles.count("Follower") == 2, text

    def reassign(self):
        """Moves each partition of a second topic to another broker, while it holds records."""
        topic, brokers = self.topic + "-moved", [int(b) for b in self.brokers()]
        self.tool("kafka-topics", "--create", "--topic", topic, "--replica-assignment",
                  ",".join(str(b) for b in brokers))
        self.tool("kafka-console-producer", "--topic", topic, "--command-property", "acks=all",
                  stdin=b"".join(b"%d\n" % i for i in range(300)))
        aims = {p: [brokers[(p + 1) % 3], brokers[(p + 2) % 3]] for p in range(3)}
        plan = {"version": 1, "partitions": [{"topic": topic, "partition": p, "replicas": r} for p, r in aims.items()]}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(plan, file)
            file.flush()
            plan_args = ("--reassignment-json-file", file.name)
            text = self.tool("kafka-reassign-partitions", *plan_args, "--execute")
            assert "Successfully started" in text, text
            interop.wait_for("reassignment complete", 90, lambda: len(re.findall(
                "is completed", self.tool("kafka-reassign-partitions", *plan_args, "--verify"))) == 3)
        text = self.tool("kafka-reassign-partitions", "--list")
        assert "No partition reassignments found" in text, text
        rows = partitions_of(self.tool("kafka-topics", "--describe", "--topic", topic), topic)
        assert {r["partition"]: r["replicas"] for r in rows} == aims, rows
        assert all(sorted(r["isr"]) == sorted(r["replicas"]) for r in rows), rows
        text = run("kafka-console-consumer", *self.server, "--topic", topic, "--from-beginning", "--max-messages", "300",
                   "--timeout-ms", "60000")
        assert sorted(int(n) for n in text.split()) == list(range(300)), "records changed on the way"

    def brokers(self):
        rows = partitions_of(self.tool("kafka-topics", "--describe", "--topic", self.topic), self.topic)
        return [str(b) for b in sorted(rows[0]["replicas"])]

    def end(self):
        for member in self.members:
            if member.process.poll() is None:
                member.process.kill()
        return max([report.end() for report in self.reports.values()])


class ConsoleMember:
    """A kafka-console-consumer process of the group, whose output goes to the ledger."""

    def __init__(self, name, cluster):
        self.name, self.ledger = name, cluster.ledger
        args = ["--topic", cluster.topic, "--group", cluster.group, "--from-beginning"]
        for flag in ("print.partition", "print.offset", "print.key"):
            args += ["--formatter-property", f"{flag}=true"]
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command("kafka-console-consumer", *cluster.server, *args), stdout=subprocess.PIPE, stderr=self.errors)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            partition, offset, record_key, record_value = line.rstrip(b"\n").split(b"\t")
            number = [int(re.search(rb"\d+", text).group()) for text in (partition, offset)]
            self.ledger.add(self.name, *number, record_key, record_value)

    def end(self):
        """SIGTERM makes the consumer commit and leave."""
        self.process.terminate()
        status = self.process.wait(60)
        self.reader.join(10)
        assert status in (0, 130, 143), f"{self.name} ended with {status}"


def retry_while_absent(condition):
    """A group that nobody joined yet is an error of the tool, not of the cluster."""
    def tried():
        try:
            return condition()
        except AssertionError as error:
            if "does not exist" in str(error) or "not found" in str(error):
                return False
            raise

    return tried


def partitions_of(text, topic):
    pattern = rf"Topic: {re.escape(topic)}\s+Partition: (\d+)\s+Leader: (\S+)\s+Replicas: ([\d,]*)\s+Isr: ([\d,]*)"
    return [
        {
            "partition": int(partition),
            "leader": int(leader) if leader.isdigit() else None,
            "replicas": [int(n) for n in replicas.split(",") if n],
            "isr": [int(n) for n in isr.split(",") if n],
        }
        for partition, leader, replicas, isr in re.findall(pattern, text)
    ]


def main(bootstrap, topic, group, count):
    c = Cluster(bootstrap, topic, group, count)
    c.step("kafka-topics", "create", c.create)
    c.step("kafka-topics", "list", c.listed)
    c.step("kafka-topics", "describe", c.described)
    c.step("kafka-console-consumer", "consume", c.group_of_two)
    c.step("kafka-console-producer", "produce", c.produce)
    c.step("kafka-console-consumer", "consume", c.consume)
    c.step("kafka-consumer-groups", "list", c.groups_listed)
    c.step("kafka-consumer-groups", "describe", c.groups_described)
    c.step("kafka-configs", "describe", c.configs)
    c.step("kafka-metadata-quorum", "describe", c.quorum_status)
    c.step("kafka-reassign-partitions", "describe", c.reassign)
    return c.end()


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    sys.stdout.flush()
    os._exit(status)
