"""What the sequences consumer shows to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from pagoda.errors import MachineError

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """What the consumer shows on its metrics port. Throughput is the rate of `records`."""

    def __init__(self) -> None:
        """A registry of its own: importing this module registers nothing."""
        self.registry = CollectorRegistry()
        self.records = Counter("pagoda_sequences_records", "Records read", registry=self.registry)
        self.rejected = Counter(
            "pagoda_sequences_rejected", "Records that could not be read", registry=self.registry
        )
        self.rows = Counter("pagoda_sequences_rows", "Online rows written", registry=self.registry)
        self.retries = Counter(
            "pagoda_sequences_retries",
            "Batches given back because a server did not answer or the group was rebalanced",
            registry=self.registry,
        )
        self.rebalances = Gauge(
            "pagoda_sequences_rebalances",
            "How often the group gave this member its partitions",
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "pagoda_sequences_batch_seconds",
            "From poll to commit",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.delay_seconds = Histogram(
            "pagoda_sequences_delay_seconds",
            "From Kafka taking a batch's oldest record to all its rows being readable",
            registry=self.registry,
            buckets=(*_SECONDS, 30, 60, 300, 3600),
        )
        self.lag = Gauge(
            "pagoda_sequences_lag",
            "Records that wait",
            ["topic", "partition"],
            registry=self.registry,
        )

    def serve(self, port: int) -> None:
        """Show them on loopback. Raises: MachineError if the port is taken."""
        try:
            start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise MachineError(
                f"metrics cannot be shown: {error.strerror}",
                where=f"port {port}",
                next_step="Set stream.metrics_port to a free port, or to 0 for none.",
            ) from error
