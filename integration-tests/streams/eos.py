"""StreamsEosTest of kafka-streams' test jar: three processors with exactly_once_v2, killed in turn, while each broker is killed.

    eos.py [--system kafka|odradek] [--rounds 3] [--simple]

The driver produces until it is told to end. In each round one processor is killed with kill -9 and started again on the state
it left. Then everything ends in order, and the test's own verifier compares all outputs with the committed input.
"""

import os
import sys
import time

import applications
import interop

MAIN = "org.apache.kafka.streams.tests.StreamsEosTest"
TOPICS = ("data", "echo", "min", "sum", "repartition", "max", "cnt")
PARTITIONS = 5
REBALANCE_SECONDS = 240


class Processor:
    """An instance, with the state that it finds again."""

    def __init__(self, stage, name, command):
        self.stage, self.name, self.command, self.starts = stage, name, command, 0
        self.program = None

    def start(self):
        self.starts += 1
        self.program = self.stage.java(f"{self.name}-{self.starts}", os.environ["STREAMS_JARS"], MAIN,
                                       properties(self.stage, self.name), self.command, heap="384m")
        self.program.wait_for("StateChange: REBALANCING -> RUNNING", REBALANCE_SECONDS)

    def works_on(self):
        """Until it has processed more than it has so far."""
        pattern = "processed [0-9]* records from topic"
        self.program.wait_for(pattern, REBALANCE_SECONDS, times=self.program.count(pattern) + 1)


def properties(stage, name):
    path = stage.folder / f"{name}.properties"
    path.write_text("\n".join([
        f"bootstrap.servers={stage.bootstrap}", "processing.guarantee=exactly_once_v2", f"state.dir={stage.folder}/state-{name}",
        "auto.offset.reset=earliest", "acks=all", "consumer.session.timeout.ms=10000",
    ]) + "\n")
    return str(path)


def run(settings, folder):
    suffix = "" if settings.simple else "-complex"
    with applications.Stage(settings, folder) as stage:
        print(f"seed {stage.seed}")
        began = time.monotonic()
        stage.create(*TOPICS, partitions=PARTITIONS)
        driver = stage.java("driver", os.environ["STREAMS_JARS"], MAIN, properties(stage, "driver"), "run")
        processors = [Processor(stage, f"processor-{i}", f"process{suffix}") for i in range(3)]
        for processor in processors:
            processor.start()
        enough = stage.system.count if settings.every else 0
        with stage.killing(first=2.0):
            for number in range(settings.rounds):
                victim = processors[number % 3]
                victim.program.kill()
                for survivor in processors:
                    if survivor is not victim:
                        survivor.works_on()
                victim.start()
                print(f"  round {number + 1}: {victim.name} was killed and is back", flush=True)
            interop.wait_for("every broker was killed", 300, lambda: stage.kills >= enough, pause=1)
        driver.stop(120)
        for processor in processors:
            processor.program.stop(320)
        closed = sum(processor.program.count("EOS-TEST-CLIENT-CLOSED") for processor in processors)
        verifier = stage.java("verifier", os.environ["STREAMS_JARS"], MAIN, properties(stage, "verifier"), f"verify{suffix}")
        verifier.wait(900)
        verdict = "ok" if "ALL-RECORDS-DELIVERED" in verifier.said() and closed == 3 else "FAILED"
        if verdict != "ok":
            stage.show_logs()
        produced = sum(len(rows) for rows in stage.read("data").values())
        return [{"harness": f"StreamsEosTest{suffix}", "kills": stage.kills, "processors killed": settings.rounds,
                 "seconds": round(time.monotonic() - began), "records": produced, "closed": closed, "verdict": verdict}]


def settings_from(argv):
    flags = applications.parser("StreamsEosTest under kill -9")
    flags.add_argument("--rounds", type=int, default=3, help="processors killed, one after another")
    flags.add_argument("--simple", action="store_true", help="without the repartitioning")
    return flags.parse_args(argv)


if __name__ == "__main__":
    sys.exit(applications.main(settings_from(sys.argv[1:]), run))
