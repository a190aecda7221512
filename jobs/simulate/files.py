"""A simulation as files: what `pagoda import files` takes as it stands, and the truth beside it.

    <folder>/README.md, simulation.json      what this is: options, counts, SHA-256 of every file
    <folder>/<name>.toml                     the mapping file
    <folder>/items.parquet                   the catalogue's items that were shown
    <folder>/events/, searches/              a Parquet file a day
    <folder>/truth/                          impressions/, a file a day, and users.parquet

The folder appears whole or not at all. The same simulation over the same catalogue gives the same
bytes. Memory holds some thousand users' day, however many users and days there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.simulate import tables
from jobs.simulate.behaviour import ROBOTS, Simulation
from jobs.simulate.catalogue import Catalogue
from pagoda import whole
from pagoda.errors import InputError

MANIFEST = "simulation.json"
GROUP_ROWS = 131_072  # of a file's row groups, whatever the chunks it is written from
_ITEM_COLUMNS = (
    "item_id",
    "title",
    "brand",
    "leaf_category",
    "category",
    "first_category",
    "shop",
    "colour",
    "size",
    "price",
    "in_stock",
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written."""

    events: int
    searches: int
    impressions: int
    robots: int


def write(
    simulation: Simulation,
    catalogue: Catalogue,
    folder: Path,
    *,
    impressions: bool = True,
    advance: Callable[[int], None] = lambda _: None,
) -> Written:
    """Write the simulation's days.

    Args:
        folder: a new one, or one that holds a simulation, which is replaced.
        impressions: whether events hold them; the truth always does.
        advance: told how many events and searches were made since it was last told.
    Raises: InputError if the folder holds anything else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise InputError(
            "the folder is not empty and holds no simulation",
            where=str(folder),
            next_step="Name a new folder.",
        )
    with whole.folder(folder, replace=True) as draft:
        written = _days(simulation, catalogue, draft, impressions=impressions, advance=advance)
        attributes = _items(catalogue, draft / "items.parquet")
        (draft / f"{simulation.name}.toml").write_text(_mapping(simulation, attributes))
        (draft / "README.md").write_text(_readme(simulation))
        manifest = manifest_of(simulation, catalogue) | {
            "impressions_in_events": impressions,
            "counts": asdict(written),
            "sha256": {str(file.relative_to(draft)): _sha256(file) for file in _files(draft)},
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return written


def manifest_of(simulation: Simulation, catalogue: Catalogue) -> dict[str, Any]:
    """What was simulated, in full."""
    options = asdict(simulation) | {"first_day": simulation.first_day.isoformat()}
    return {
        "simulated": True,
        "by": "pagoda stream simulate",
        **options,
        "robot_kinds": [asdict(robot) for robot in ROBOTS],
        "catalogue_sha256": catalogue.digest,
        "catalogue_items": len(catalogue.shelf),
    }


def describe_stream(simulation: Simulation, catalogue: Catalogue, folder: Path) -> None:
    """Begin a folder for the truth about a stream: what it is, and who is a robot."""
    (folder / "truth" / "impressions").mkdir(parents=True)
    manifest = manifest_of(simulation, catalogue)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    (folder / "README.md").write_text(_readme_of_stream(simulation))
    write_users(simulation, folder / "truth")


class Parts:
    """Parquet files of tables that come in pieces, in row groups of a fixed size."""

    def __init__(self, path: Path, schema: pa.Schema, *, group_rows: int = GROUP_ROWS) -> None:
        self._group_rows = group_rows
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Write the next rows."""
        self._waiting.append(table)
        self.rows += table.num_rows
        if sum(each.num_rows for each in self._waiting) >= self._group_rows:
            together = pa.concat_tables(self._waiting)
            whole = together.num_rows - together.num_rows % self._group_rows
            self._write(together.slice(0, whole))
            self._waiting = [together.slice(whole)]

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | object) -> None:
        if kind is None and self._waiting:
            self._write(pa.concat_tables(self._waiting))
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table.unify_dictionaries(), row_group_size=self._group_rows)


def _days(
    simulation: Simulation,
    catalogue: Catalogue,
    folder: Path,
    *,
    impressions: bool,
    advance: Callable[[int], None],
) -> Written:
    counts = dict.fromkeys(("events", "searches", "impressions"), 0)
    for day in range(simulation.days):
        name = f"{simulation.first_day + timedelta(days=day)}.parquet"
        with (
            Parts(folder / "events" / name, tables.EVENTS) as events,
            Parts(folder / "searches" / name, tables.SEARCHES) as searches,
            Parts(folder / "truth" / "impressions" / name, tables.IMPRESSIONS) as shown,
        ):
            for made in tables.of_day(simulation, catalogue, day):
                sent = made.events if impressions else tables.without_impressions(made.events)
                events.add(sent)
                searches.add(made.searches)
                shown.add(made.impressions)
                advance(sent.num_rows + made.searches.num_rows)
        counts["events"] += events.rows
        counts["searches"] += searches.rows
        counts["impressions"] += shown.rows
    return Written(robots=write_users(simulation, folder / "truth"), **counts)


def write_users(simulation: Simulation, folder: Path) -> int:
    """Write who is a robot into `users.parquet`. Returns: how many are."""
    robots = 0
    with Parts(folder / "users.parquet", tables.USERS) as file:
        for each in tables.users(simulation):
            file.add(each)
            robots += each.num_rows - each["robot"].null_count
    return robots


def _items(catalogue: Catalogue, path: Path) -> list[str]:
    """Write the catalogue's items. Returns: the names of their attributes."""
    table = catalogue.table.combine_chunks()
    chunks = table["attributes"].chunks
    names = sorted({key for chunk in chunks for key in pc.unique(chunk.keys).to_pylist()})
    items = table.select(_ITEM_COLUMNS)
    for name in names:
        values = pc.map_lookup(table["attributes"], pa.scalar(name), "first")
        items = items.append_column(f"attribute {name}", values)
    pq.write_table(items, path, compression="zstd")
    return names


def _mapping(simulation: Simulation, attributes: list[str]) -> str:
    def table(pairs: dict[str, str]) -> str:
        entries = (f"{json.dumps(key)} = {json.dumps(value)}" for key, value in pairs.items())
        return f"{{ {', '.join(entries)} }}"

    def same(columns: Iterator[str] | list[str] | tuple[str, ...]) -> str:
        return table({name: name for name in columns})

    days = simulation.judged_days
    return f"""\
# Simulated shoppers, not people: see README.md. Import: pagoda import files --mapping <this file>
name = {json.dumps(simulation.name)}

[dataset]
click_actions = ["click"]
positive_actions = ["click", "buy"]
test_days = {days}
validation_days = {days}
queries = {json.dumps(simulation.queries)}

[items]
files = ["items.parquet"]
columns = {same(_ITEM_COLUMNS)}
attributes = {table({name: f"attribute {name}" for name in attributes})}

[events]
files = ["events/*.parquet"]
columns = {same(tables.EVENTS.names)}
time = {{ format = "epoch_ms" }}

[searches]
files = ["searches/*.parquet"]
columns = {same(tables.SEARCHES.names)}
time = {{ format = "epoch_ms" }}
"""


_TRUTH = """\
| `truth/impressions/` | every result shown: `relevance` 0 off the shelf that was wanted, 1 on it, \
2 on it and to the shopper's taste, null for robots; `examined`; `clicked_for` relevance, noise \
(a mistake) or robot, null if not clicked |
| `truth/users.parquet` | every user, and for robots of which kind |

The truth is for judging models and rules; a model that reads it has cheated.
"""


def _readme(simulation: Simulation) -> str:
    return f"""\
# Simulated: no person did any of this

Made by `pagoda stream simulate` with seed {simulation.seed}: {simulation.users:,} shoppers and
robots over {simulation.days} days from {simulation.first_day}, in the catalogue of `items.parquet`.
`{MANIFEST}` says every option, the counts and the SHA-256 of every file; the same options over
the same catalogue give the same bytes. Ids begin with `sim-`. Say "simulated" with every number
that comes from these files.

| file | what it holds |
|---|---|
| `{simulation.name}.toml` | the mapping: `pagoda import files --mapping {simulation.name}.toml` |
| `items.parquet` | the catalogue's items |
| `events/`, `searches/` | what happened, a file a UTC day |
{_TRUTH}"""


def _readme_of_stream(simulation: Simulation) -> str:
    return f"""\
# Simulated: no person did any of this

The truth about what `pagoda stream simulate` sent to Kafka with seed {simulation.seed} and
{simulation.users:,} users; `{MANIFEST}` says every option. Its ids begin with
`sim-{simulation.seed}-`, its searches' end with `{simulation.run}`. The last file may hold
impressions that were not sent any more.

| file | what it holds |
|---|---|
{_TRUTH}"""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
