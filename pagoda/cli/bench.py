"""`pagoda bench`: each bench lives in the room whose work it measures."""

from __future__ import annotations

from pagoda.cli.lazy import LazyGroup

BENCHES: dict[str, tuple[str, str]] = {
    "features": ("jobs.bench.features:app", "Histories of user-days: Spark, DuckDB, Polars."),
    "pit": ("training.bench.pit:app", "The point-in-time join: Feast, Polars, DuckDB."),
    "train": ("training.bench.towers:app", "Towers: samples a CPU second, beside the plain way."),
    "device": (
        "training.bench.device:app",
        "Towers on the device of the settings, batch by batch.",
    ),
    "memory": ("training.bench.memory:app", "More negatives: remembered, drawn, larger batches."),
    "stream": ("jobs.bench.stream:app", "The consumer beside bare Kafka loops; how fresh it is."),
    "online": ("jobs.bench.online:app", "One user's features: Pagoda, Feast, a bare HMGET."),
}

group = LazyGroup(
    "bench",
    BENCHES,
    help="How fast it is, beside peers that run in the same minutes on the same rows.",
)
