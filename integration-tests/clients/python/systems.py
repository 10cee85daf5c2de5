"""Three-node clusters as processes that a test may kill: Apache Kafka from its jars, and Odradek.

Both have one face: start, kill(i), up(i), stop. Nodes are numbered from 1. Only processes started here are ever ended.
"""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import interop

JVM = ["-server", "-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Djava.awt.headless=true"]


class Nodes:
    """What is the same for both systems."""

    def __init__(self, folder, base_port, count, overrides=()):
        self.folder = pathlib.Path(folder)
        self.base_port, self.count, self.overrides = base_port, count, list(overrides)
        self.processes = {}
        self.bootstrap = ",".join(f"127.0.0.1:{self.port(i)}" for i in self.numbers())

    def numbers(self):
        return range(1, self.count + 1)

    def port(self, i):
        return self.base_port + 10 * (i - 1)

    def claim_ports(self):
        """A port that somebody else serves would be tested in our cluster's place."""
        for i in self.numbers():
            for port in (self.port(i), self.port(i) + 1):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        s.bind(("127.0.0.1", port))
                    except OSError as error:
                        raise RuntimeError(f"port {port} is in use; choose another --base-port") from error

    def launch(self, name, argv):
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def kill(self, *which):
        """kill -9, all at once."""
        for i in which:
            os.kill(self.pid(i), signal.SIGKILL)
        for i in which:
            self.wait_gone(i)

    def wait_gone(self, i):
        process = self.processes.get(i)
        if process is not None:
            process.wait(30)
        else:
            pid = self.pid(i)
            interop.wait_for(f"node {i} (process {pid}) gone", 30, lambda: not alive(pid), pause=0.01)

    def wait_ready(self, seconds=240):
        from confluent_kafka.admin import AdminClient

        def all_there():
            admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            try:
                return len(admin.list_topics(timeout=2).brokers) == self.count
            except Exception:
                return False

        interop.wait_for(f"{self.count} brokers answer", seconds, all_there)


class OwnFiles(Nodes):
    """Nodes with a server.properties of ours each: prepare() formats them, launch_all() starts them."""

    def start(self):
        self.prepare()
        self.launch_all()
        self.wait_ready()

    def launch_all(self):
        for i in self.numbers():
            self.up(i)

    def prepare(self):
        self.claim_ports()
        cluster_id = self.tool("random-uuid").split()[-1]
        for i in self.numbers():
            self.tool("format", "-t", cluster_id, "-c", self.properties(i))

    def tool(self, *arguments):
        """Kafka's storage tool, or ours, which has its flags."""
        done = subprocess.run([*self.storage(), *arguments], capture_output=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{arguments}: {done.stdout.decode()[-300:]} {done.stderr.decode()[-300:]}")
        return done.stdout.decode()

    def properties(self, i):
        voters = ",".join(f"{n}@127.0.0.1:{self.port(n) + 1}" for n in self.numbers())
        listener = f"PLAINTEXT://127.0.0.1:{self.port(i)}"
        lines = [
            "process.roles=broker,controller",
            f"node.id={i}",
            f"controller.quorum.voters={voters}",
            f"listeners={listener},CONTROLLER://127.0.0.1:{self.port(i) + 1}",
            f"advertised.listeners={listener}",
            "controller.listener.names=CONTROLLER",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            f"log.dirs={self.folder}/data-{i}",
            f"offsets.topic.replication.factor={self.count}",
            f"default.replication.factor={self.count}",
            f"transaction.state.log.replication.factor={self.count}",
            f"transaction.state.log.min.isr={min(self.count, 2)}",
            *self.own_lines(i),
            *self.overrides,
        ]
        path = self.folder / f"node-{i}.properties"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    def own_lines(self, _):
        return []

    def pid(self, i):
        return self.processes[i].pid

    def stop(self):
        for process in self.processes.values():
            process.kill()
            process.wait(30)


class ApacheKafka(OwnFiles):
    """Combined nodes of the release that the jars hold. `jars` is the folder that setup_jars filled."""

    name = "kafka"

    def __init__(self, folder, base_port, count, overrides=(), jars=None):
        super().__init__(folder, base_port, count, overrides)
        self.classpath = f"{jars or os.environ['JARS']}/*"

    def storage(self):
        return ["java", "-cp", self.classpath, "kafka.tools.StorageTool"]

    def up(self, i):
        argv = ["java", *JVM, "-Dlog4j2.level=WARN", "-cp", self.classpath, "kafka.Kafka", self.properties(i)]
        self.processes[i] = self.launch(f"node-{i}", argv)


class OdradekNodes(OwnFiles):
    """Combined nodes that `odradek server` runs, on the same files as Kafka's."""

    name = "odradek-nodes"

    def __init__(self, folder, base_port, count, overrides=(), binary="odradek"):
        super().__init__(folder, base_port, count, overrides)
        self.binary = binary

    def storage(self):
        return [self.binary, "storage"]

    def own_lines(self, i):
        return [f"odradek.metrics.listener=127.0.0.1:{self.port(i) + 2}"]

    def up(self, i):
        self.processes[i] = self.launch(f"node-{i}", [self.binary, "server", self.properties(i)])


class Odradek(Nodes):
    """`odradek cluster`; a node that was killed comes back as `odradek server` on the file that the cluster wrote."""

    name = "odradek"

    def __init__(self, folder, base_port, count, overrides=(), binary="odradek"):
        self.cluster = None
        super().__init__(folder, base_port, count, overrides)
        self.binary = binary

    def node_folder(self, i):
        return self.folder / "data" / f"node-{i}"

    def start(self):
        self.claim_ports()
        self.launch_cluster()
        interop.wait_for("the pid files", 30, self.has_pids)
        self.learn_listeners()
        self.wait_ready()

    def launch_cluster(self):
        argv = [self.binary, "cluster", "--nodes", str(self.count), "--data-dir", str(self.folder / "data"),
                "--base-port", str(self.base_port)]
        for override in self.overrides:
            argv += ["--override", override]
        self.cluster = self.launch("cluster", argv)

    def learn_listeners(self):
        self.bootstrap = ",".join(self.listener(i) for i in self.numbers())

    def said(self):
        """What `odradek cluster` has printed so far."""
        return (self.folder / "cluster.log").read_text(errors="replace")

    def has_pids(self):
        if self.cluster.poll() is not None:
            raise RuntimeError(f"odradek cluster ended with {self.cluster.returncode}: {self.said()[-500:]}")
        return all((self.node_folder(i) / "pid").exists() for i in self.numbers())

    def port(self, i):
        """As planned until the cluster is up, then as the node's own file says."""
        if self.cluster is None or not (self.node_folder(i) / "server.properties").exists():
            return super().port(i)
        return int(self.listener(i).rsplit(":", 1)[1])

    def listener(self, i):
        """The first address of `listeners` that is not the controller's, as the node's own file says."""
        text = (self.node_folder(i) / "server.properties").read_text()
        listeners = re.search(r"^listeners\s*=\s*(.*)$", text, re.MULTILINE).group(1).split(",")
        names = [part for part in listeners if not part.strip().upper().startswith("CONTROLLER")]
        return names[0].split("://")[1].strip()

    def pid(self, i):
        process = self.processes.get(i)
        return process.pid if process else int((self.node_folder(i) / "pid").read_text())

    def up(self, i):
        argv = [self.binary, "server", str(self.node_folder(i) / "server.properties")]
        self.processes[i] = self.launch(f"node-{i}", argv)

    def stop(self):
        for process in self.processes.values():
            process.terminate()
        if self.cluster and self.cluster.poll() is None:
            self.cluster.send_signal(signal.SIGINT)
        for process in [*self.processes.values(), self.cluster]:
            if process is None:
                continue
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def alive(pid):
    """A process that is not a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def until(deadline):
    time.sleep(max(0.0, deadline - time.monotonic()))
