"""Makes averages a minute of the readings, keeps the latest of them for dashboards, and raises alarms."""

import json

from kafka import KafkaConsumer, KafkaProducer

WINDOW_SECONDS = 60
# How long after its end a minute waits for readings that are late.
GRACE_SECONDS = 10


class Windows:
    """Readings by host, metric and minute of the readings' own time; a minute is closed when later readings say that it is over."""

    def __init__(self):
        self.open = {}
        self.late = 0

    def add(self, reading):
        """Takes a reading and gives back the averages of the minutes that it closed."""
        series = (reading["host"], reading["metric"])
        minutes = self.open.setdefault(series, {"closed_until": 0})
        minute = reading["at"] // WINDOW_SECONDS * WINDOW_SECONDS
        if minute < minutes["closed_until"]:
            self.late += 1
            return []
        minutes.setdefault(minute, []).append(reading["value"])
        return [self.close(series, m) for m in sorted(k for k in minutes if k != "closed_until")
                if m + WINDOW_SECONDS + GRACE_SECONDS <= reading["at"]]

    def close(self, series, minute):
        values = self.open[series].pop(minute)
        self.open[series]["closed_until"] = minute + WINDOW_SECONDS
        host, metric = series
        return {"host": host, "metric": metric, "minute": minute, "average": sum(values) / len(values), "readings": len(values)}


class Monitor:
    """One member of the monitoring group."""

    def __init__(self, bootstrap, readings, latest, alarm):
        self.latest, self.alarm = latest, alarm
        self.windows = Windows()
        self.averages = []
        self.consumer = KafkaConsumer(
            readings,
            bootstrap_servers=bootstrap,
            group_id=f"{readings}-monitor",
            auto_offset_reset="earliest",
            value_deserializer=json.loads,
            # The windows are in memory: a monitor that starts again reads the last hour again instead of remembering it.
            enable_auto_commit=False,
        )
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=20,
                                      key_serializer=str.encode, value_serializer=lambda v: json.dumps(v).encode())

    def poll(self):
        for records in self.consumer.poll(timeout_ms=500).values():
            for record in records:
                for average in self.windows.add(record.value):
                    self.publish(average)

    def publish(self, average):
        self.averages.append(average)
        series = f"{average['host']}/{average['metric']}"
        # The topic is compacted: of every series it keeps the last average, which is what a dashboard loads when it opens.
        self.producer.send(self.latest, key=series, value=average)
        if average["metric"] == "cpu" and average["average"] > 90:
            self.alarm(f"{average['host']}: {average['average']:.0f} % cpu in minute {average['minute'] // WINDOW_SECONDS}")

    def close(self):
        self.producer.close(timeout=30)
        self.consumer.close()
