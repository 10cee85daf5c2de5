"""roll.py: a cluster under load goes from one program to another and back, one node at a time; every record is checked.

    roll.py --system kafka|odradek-nodes [--from PATH] [--to PATH] [--rate 5000] [--max-gap 0.5]

Each node is stopped with SIGTERM, which moves its leaders away, and started as the other program; the next one follows when
the node is back in every ISR. --system kafka rolls Apache Kafka onto itself, to check this harness.
"""

import argparse
import json
import pathlib
import signal
import sys
import tempfile
import time

import chaos
import interop
import systems


class Roll(chaos.Scene):
    """The chaos scene, with clean stops in place of kills."""

    def node(self, i, binary, direction):
        self.wait_in_sync(120)
        begin = time.monotonic()
        process = self.system.processes[i]
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        stopped = time.monotonic()
        if binary is not None:
            self.system.binary = binary
        self.system.up(i)
        interop.wait_for(f"node {i} accepts connections", 60, lambda: chaos.accepts(self.system.port(i)), pause=0.02)
        self.wait_in_sync(120)
        back = time.monotonic()
        # The preferred leaders go home now, so that the next stop finds the load where it belongs.
        self.ask(lambda admin: admin.elect_leaders(0, {chaos.TOPIC: list(range(chaos.PARTITIONS))}))
        systems.until(back + 1)
        interop.wait_for("acks at the end", 60, lambda: all(a and a[-1] > back for a in self.load.acks))
        topic_gap, partition_gap = self.load.gaps(begin, time.monotonic())
        step = {"mode": direction, "node": i, "exit": status, "stop_s": round(stopped - begin, 3),
                "back_in_isr_s": round(back - stopped, 3), "gap_s": round(topic_gap, 3),
                "partition_gap_s": round(partition_gap, 3)}
        self.kills.append(step)
        print("  ".join(f"{k}={v}" for k, v in step.items()), flush=True)


def broken_limits(settings, steps, result, load):
    broken = [f"{result[k]} {k}" for k in ("lost", "duplicated", "out_of_order", "elsewhere") if result[k]]
    if load.failures:
        broken.append(f"refused to the producer: {load.failures}")
    for step in steps:
        where = f"{step['mode']}, node {step['node']}"
        if settings.max_gap and step["partition_gap_s"] > settings.max_gap:
            broken.append(f"{where}: {step['partition_gap_s']} s without an ack")
        # Java ends with 143 after a clean stop by SIGTERM.
        if step["exit"] not in (0, 143):
            broken.append(f"{where}: ended with {step['exit']}")
    return broken


def main(argv):
    parser = argparse.ArgumentParser(description="a rolling upgrade under load, there and back")
    parser.add_argument("--system", choices=("kafka", "odradek-nodes"), default="odradek-nodes")
    parser.add_argument("--from", dest="before", help="the older odradek program")
    parser.add_argument("--to", dest="after", help="the newer odradek program")
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--base-port", type=int, default=46492)
    parser.add_argument("--max-gap", type=float, default=0.5, help="longest allowed time without an ack; 0: any")
    settings = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="odradek-roll-") as folder:
        if settings.system == "kafka":
            system = systems.ApacheKafka(folder, settings.base_port, 3)
        else:
            system = systems.OdradekNodes(folder, settings.base_port, 3, binary=settings.before)
        roll = Roll(system, settings)
        try:
            roll.prepare()
            for direction, binary in (("there", settings.after), ("back", settings.before)):
                for i in system.numbers():
                    roll.node(i, binary, direction)
            result = roll.finish()
        except Exception:
            for log in sorted(pathlib.Path(folder).glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}", file=sys.stderr)
            raise
        finally:
            system.stop()
    load = roll.load
    broken = broken_limits(settings, roll.kills, result, load)
    print(json.dumps({"system": settings.system, "rate": settings.rate, "sent": load.sent, "acked": load.acked,
                      "failed": sum(load.failures.values()), **result, "worst": chaos.worst(roll.kills), "broken": broken}))
    for line in broken:
        print(f"broken: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
