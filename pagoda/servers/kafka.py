"""The event log: one Kafka broker in KRaft mode, from its Maven jars."""

from __future__ import annotations

import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from pagoda import jars, java, topics, whole
from pagoda.errors import MachineError
from pagoda.servers.program import Port, Ports, Process, Server
from pagoda.settings import Settings

# Paths are relative to the data folder, where Kafka runs.
# LogAppendTime: `ingested_at` is when the broker first had a record, whatever its sender says.
_CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=logs
log.message.timestamp.type=LogAppendTime
auto.create.topics.enable=false
num.partitions={partitions}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.hours=168
# Only whole segments are deleted: a record is gone a day after its retention, not a week.
log.roll.hours=24
"""

_LOG4J = """\
status=warn
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
"""


def _prepare(settings: Settings, ports: Ports) -> tuple[Process, ...]:
    data = settings.data("kafka")
    config = _CONFIG.format(**ports, partitions=settings.kafka.partitions)
    whole.write(data / "server.properties", config, private=True)
    whole.write(data / "log4j2.properties", _LOG4J, private=True)
    command = (
        str(java.find().binary),
        "-Xms128m",
        "-Xmx512m",
        "-Djava.awt.headless=true",
        "-Dlog4j2.configurationFile=log4j2.properties",
        "-cp",
        _class_path(settings),
    )
    if not (data / "logs" / "meta.properties").exists():
        _format(command, data)
    return (
        Process(
            name="kafka",
            command=(*command, "kafka.Kafka", "server.properties"),
            cwd=data,
            config=config,
        ),
    )


def _class_path(settings: Settings) -> str:
    jars.fetch(settings)
    # Ivy leaves the Scala library out, as Spark brings it: Kafka takes Spark's.
    (scala,) = (jars.spark_home() / "jars").glob("scala-library-2.13.*.jar")
    return f"{settings.jars}/kafka/*:{scala}"


def _format(java_command: tuple[str, ...], data: Path) -> None:
    """Give the empty log folder its cluster id, as KRaft wants it before the first start."""
    # One in 64 begins with a dash: handed over with "=", it is no option.
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        [
            *java_command, "kafka.tools.StorageTool", "format",
            f"--cluster-id={cluster}", "--config", "server.properties", "--ignore-formatted",
        ],
        cwd=data,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise MachineError(
            "Kafka's log folder could not be formatted",
            where=str(data),
            found=(done.stderr or done.stdout).strip()[-600:],
        )


def _probe(settings: Settings) -> None:
    with topics.admin(settings) as client:
        client.list_topics()


def _settle(settings: Settings) -> None:
    topics.ensure(settings)


def _address(settings: Settings) -> tuple[str, int]:
    host, _, port = settings.kafka.bootstrap_servers.split(",")[0].rpartition(":")
    return host, int(port)


SERVER = Server(
    name="kafka",
    title="Kafka, the event log",
    prepare=_prepare,
    probe=_probe,
    settle=_settle,
    address=_address,
    ports=(
        Port(
            name="broker",
            default=19092,
            setting=("kafka", "bootstrap_servers"),
            form="127.0.0.1:{port}",
        ),
        Port(name="controller", default=19093),
    ),
    grace_s=20,
)
