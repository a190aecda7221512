"""What `pagoda demo` prints at its end: what was built, what a click moved, where to look."""

from __future__ import annotations

from typing import Any

from pagoda import dataset, index_report, registry
from pagoda.bundle import Manifest, read_manifest
from pagoda.console import emit_table, people
from pagoda.index_report import IndexReport
from pagoda.lake import open_table
from pagoda.live_event import Shown
from pagoda.metric_table import first_rows
from pagoda.schemas import EVENTS, IDS, ITEMS, SEARCHES
from pagoda.settings import Settings

Json = dict[str, Any]
_METRICS = ("recall@10", "recall@100")
_MOVES_SHOWN = 8


def summary(settings: Settings, shown: Shown) -> Json:
    """Everything that `tell` says, as plain values."""
    manifest, report = _live(settings)
    return {
        "lake": _counts(settings),
        "dataset": dataset.load(settings).model_dump(mode="json"),
        "bundle": {
            "name": manifest.name,
            "recipe": manifest.recipe,
            "counts": manifest.counts,
            "metrics": [metric.model_dump() for metric in manifest.metrics],
        },
        "index": report.model_dump(mode="json") | {"worst_recall": report.worst_recall},
        "live_event": {
            "user_id": shown.user_id,
            "query": shown.query,
            "clicked": shown.clicked["item_id"],
            "visible_ms": shown.visible_ms,
            "sequences": shown.sequences(),
            "results": shown.ranks(),
            "moved": len(shown.moved()),
        },
        "addresses": _addresses(settings),
    }


def tell(settings: Settings, shown: Shown) -> None:
    """Print it for people."""
    manifest, report = _live(settings)
    imported = dataset.load(settings)
    _headline("What was built")
    emit_table([_counts(settings)])
    people.print(
        f"Times are shifted by {imported.shift_days} days, to end on {imported.last_day}.\n"
        f"Queries: {imported.query_protocol}."
    )
    emit_table(_judged(manifest), title=f"Test week, all items are candidates: {manifest.name}")
    people.print(
        f"Index {report.collection}: {report.rows:,} items, {report.index_type}, lowest recall "
        f"beside exact search {report.worst_recall:.3f} over {len(report.cases)} filters."
    )
    _headline("A search before and after a live event")
    people.print(
        f"Household {shown.user_id} searches {shown.query!r}, then clicks "
        f"{shown.clicked['title']!r}. Through Kafka it was in the online features after "
        f"{shown.visible_ms} ms."
    )
    for part in shown.sequences():
        _tell_sequence(part)
    _tell_results(shown)
    _headline("Where to look")
    for name, address in _addresses(settings).items():
        people.print(f"{name}: {address}", highlight=False)


def _tell_sequence(part: Json) -> None:
    lengths = f"{part['sequence']}: {part['before']} events before, {part['after']} after"
    people.print(lengths if part["moved"] else f"{lengths}, unmoved", highlight=False)
    if part["moved"]:
        for when in ("newest before", "newest after"):
            people.print(f"  {when}: {' | '.join(part[when])}", highlight=False, markup=False)


def _tell_results(shown: Shown) -> None:
    """The clicked item, and what has moved furthest: a click shifts much by a little."""
    ranked, moved = shown.ranks(), shown.moved()
    people.print(
        f"Of the first {len(shown.after['results'])} results {len(moved)} changed their place."
    )
    clicked = [each for each in ranked if each["clicked"]]
    shown_moves = [each for each in moved if not each["clicked"]][:_MOVES_SHOWN]
    rows = [
        {**each, "clicked": "clicked" if each["clicked"] else ""}
        for each in (*clicked, *(shown_moves or ranked[:_MOVES_SHOWN]))
    ]
    emit_table(rows, title="The clicked item and the largest moves")


def _live(settings: Settings) -> tuple[Manifest, IndexReport]:
    name = registry.current(settings)
    report = index_report.load(settings, name) if name else None
    assert name is not None
    assert report is not None, "the index step promotes only what it has checked"
    return read_manifest(registry.require(settings, name)), report


def _counts(settings: Settings) -> dict[str, int]:
    users = open_table(settings, IDS).scan(row_filter="kind == 'user'").count()
    tables = (EVENTS, SEARCHES, ITEMS)
    rows = {table.name: open_table(settings, table).scan().count() for table in tables}
    return {"users": users, **rows}


def _judged(manifest: Manifest) -> list[Json]:
    """A row for each method: its recall on each set of the test week's rows."""
    judged: dict[str, Json] = {}
    for metric in first_rows(manifest.metrics):
        if metric.week == "test":
            row = judged.setdefault(metric.method, {"method": metric.method})
            for name in _METRICS:
                if name in metric.values:
                    row[f"{name}, {metric.rows}"] = f"{metric.values[name]:.3f}"
    return list(judged.values())


def _addresses(settings: Settings) -> dict[str, str]:
    return {
        "Search page": f"http://{settings.serving.host}:{settings.serving.port}/",
        "Airflow": f"{settings.airflow.url}/",
        "Airflow login": f"{settings.airflow.user} / {settings.airflow_password()}",
    }


def _headline(text: str) -> None:
    people.print(f"\n[bold]{text}[/]")
