"""Stands in for `test/service.py`, which kafka-python's source distribution leaves out of its tests.

With KAFKA_URI set the tests start no process, so only the handle on a service that somebody else runs is needed.
"""


class ExternalService:
    def __init__(self, host, port):
        self.host, self.port = host, port

    def open(self):
        pass

    def stop(self):
        pass

    def dump_logs(self):
        pass


class SpawnedService:
    def __init__(self, *_):
        raise RuntimeError("these tests run against a cluster that is already there: set KAFKA_URI")
