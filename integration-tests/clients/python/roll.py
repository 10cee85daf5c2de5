"""roll.py: a cluster under load goes from one program to another and back, one node at a time; every record is checked.

    roll.py --from PATH --to PATH [--rate 5000] [--max-gap 0.5] [--keep FOLDER]
    roll.py --system kafka

`odradek cluster` of the older program runs three nodes; `odradek roll` of the newer one brings them to the newer program
and back, each time every node once. What is counted lies between the start and the end of such a roll, so that the gap of
each stop, of each start and of everything between is in it. --system kafka rolls Apache Kafka onto itself with stops and
starts of this harness, to check the harness.
"""

import argparse
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import chaos
import interop
import systems

ROLL_SECONDS = 300


class Roll(chaos.Scene):
    """The chaos scene, with clean stops in place of kills."""

    def prepare(self):
        super().prepare()
        # Some seconds before the first stop: a client that has just begun still learns where things are.
        systems.until(time.monotonic() + 3)

    def walk(self, direction, binary):
        """One `odradek roll` over all nodes; a step reaches from the decision to stop a node to that about the next."""
        self.home()
        argv = [self.settings.after, "roll", "--data-dir", str(self.system.folder / "data"), "--binary", binary]
        lines = []
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as roll:
            for line in roll.stdout:
                lines.append((time.monotonic(), line.rstrip()))
                print(f"  {line}", end="", flush=True)
        if roll.returncode:
            raise RuntimeError(f"odradek roll ended with {roll.returncode}: {lines[-1][1] if lines else 'it said nothing'}")
        self.check_program(binary)
        end = time.monotonic()
        self.wait_for_acks(end)
        stops = [(at, int(found.group(1))) for at, line in lines if (found := re.match(r"node (\d+): safe to stop", line))]
        if len(stops) != self.system.count:
            raise RuntimeError(f"{len(stops)} nodes were stopped, not {self.system.count}")
        # What a client still waits for when the next node's turn comes is seen in the whole only.
        for (begin, node), (until, _) in zip(stops, stops[1:] + [(time.monotonic(), 0)]):
            self.note(direction, node, begin, until)
        self.note(direction, "all", stops[0][0], time.monotonic())

    def check_program(self, binary):
        """Whether every node runs the program that it was rolled to."""
        for i in self.system.numbers():
            program = pathlib.Path(f"/proc/{self.system.pid(i)}/exe").resolve()
            if program != pathlib.Path(binary).resolve():
                raise RuntimeError(f"node {i} runs {program}, not {binary}")

    def home(self):
        """The preferred leaders go home, so that every stop finds leaders to move."""
        self.ask(lambda admin: admin.elect_leaders(0, {chaos.TOPIC: list(range(chaos.PARTITIONS))}))
        interop.wait_for("leaders on every node", 30, lambda: all(self.leads(i) for i in self.system.numbers()), pause=0.25)
        systems.until(time.monotonic() + 1)

    def node(self, i, direction):
        """Stops and starts a node by hand."""
        self.wait_in_sync(120)
        begin = time.monotonic()
        process = self.system.processes[i]
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        stopped = time.monotonic()
        self.system.up(i)
        interop.wait_for(f"node {i} accepts connections", 60, lambda: chaos.accepts(self.system.port(i)), pause=0.02)
        self.wait_in_sync(120)
        back = time.monotonic()
        self.home()
        self.wait_for_acks(back)
        self.note(direction, i, begin, time.monotonic(), exit=status, stop_s=round(stopped - begin, 3))

    def note(self, direction, node, begin, until, **more):
        topic_gap, partition_gap = self.load.gaps(begin, until)
        step = {"mode": direction, "node": node, **more, "took_s": round(until - begin, 3), "gap_s": round(topic_gap, 3),
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
        if step.get("exit", 0) not in (0, 143):
            broken.append(f"{where}: ended with {step['exit']}")
    return broken


def settings_from(argv):
    parser = argparse.ArgumentParser(description="a rolling upgrade under load, there and back")
    parser.add_argument("--system", choices=("kafka", "odradek"), default="odradek")
    parser.add_argument("--from", dest="before", help="the older odradek program")
    parser.add_argument("--to", dest="after", help="the newer odradek program")
    parser.add_argument("--rounds", type=int, default=1, help="times there and back")
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--base-port", type=int, default=26492)
    parser.add_argument("--max-gap", type=float, default=0.5, help="longest allowed time without an ack; 0: any")
    parser.add_argument("--keep", help="a new folder for data and logs, kept; default: a temporary one")
    settings = parser.parse_args(argv)
    if settings.system == "odradek" and not (settings.before and settings.after):
        parser.error("--from and --to name the two programs")
    return settings


def run(settings, folder):
    if settings.system == "kafka":
        system = systems.ApacheKafka(folder, settings.base_port, 3)
    else:
        system = systems.Odradek(folder, settings.base_port, 3, binary=settings.before)
    roll = Roll(system, settings)
    try:
        roll.prepare()
        for _ in range(settings.rounds):
            for direction, binary in (("there", settings.after), ("back", settings.before)):
                if settings.system == "odradek":
                    roll.walk(direction, binary)
                else:
                    for i in system.numbers():
                        roll.node(i, direction)
        result = roll.finish()
    except Exception:
        for log in sorted(pathlib.Path(folder).rglob("*.log")):
            print(f"--- {log.relative_to(folder)}\n{log.read_text(errors='replace')[-1500:]}", file=sys.stderr)
        raise
    finally:
        system.stop()
    load = roll.load
    broken = broken_limits(settings, roll.kills, result, load)
    worst = chaos.worst(roll.kills)
    print(json.dumps({"system": settings.system, "rate": settings.rate, "sent": load.sent, "acked": load.acked,
                      "failed": sum(load.failures.values()), **result, "worst": worst, "broken": broken}))
    longest = max(step["gap_s"] for step in roll.kills)
    longest_partition = max(step["partition_gap_s"] for step in roll.kills)
    print(f"of {load.acked} acknowledged records: {result['lost']} lost, {result['duplicated']} duplicated, "
          f"{result['out_of_order']} reordered, {sum(load.failures.values())} failed; longest gap {longest} s over the topic, "
          f"{longest_partition} s of a partition")
    for line in broken:
        print(f"broken: {line}")
    return 1 if broken else 0


def main(argv):
    settings = settings_from(argv)
    if settings.keep:
        folder = pathlib.Path(settings.keep)
        folder.mkdir(parents=True)
        return run(settings, folder)
    with tempfile.TemporaryDirectory(prefix="odradek-roll-") as folder:
        return run(settings, pathlib.Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
