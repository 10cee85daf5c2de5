"""create_topic.py BOOTSTRAP TOPIC: the topic of a client that cannot create one."""

import sys

from confluent_kafka.admin import AdminClient

import confluent

if __name__ == "__main__":
    confluent.create(AdminClient({"bootstrap.servers": sys.argv[1]}), sys.argv[2])
