"""What features are made of, a number a day, and what each built day was made of.

    lake.events, lake.searches -> digest of each UTC day -> lake.input_days, lake.built_days

A digest is of the rows that `history.read` gives, each event once: a message sent again, an action
that features do not count, or small files that were joined leave it as it is. Reading a day is
spared while its data files are those it was last taken from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import reduce
from typing import Any, NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sf

from jobs.batch import history, robots
from jobs.batch.plan import REACHES, Built, Digests, runs
from pagoda import features, lake
from pagoda.schemas import BUILD_RECORDS, BUILT_DAYS, EVENTS, INPUT_DAYS, SEARCHES, Table
from pagoda.settings import Settings
from pagoda.windows import DAY_MS

_EPOCH = date(1970, 1, 1)
_GAP_DAYS = 7  # reading some days again is cheaper than reading in many pieces
# All but the price: the lake keeps no earlier prices, so a new one cannot mend old rows.
_READ = [name for name in history.COLUMNS if name != "price"]

Files = Mapping[date, str]  # day to a hash of the names of its data files


class Look(NamedTuple):
    """What a day's rows were when they were last read, and from which files."""

    files: str
    digest: int


def files_of(settings: Settings, click_actions: Sequence[str]) -> Files:
    """Which data files hold each day's events and searches, from the lake's metadata alone.

    What else decides on the rows that features read goes into the hash too: which actions are
    clicks, and what no person does.
    """
    names: dict[date, set[str]] = {}
    for table in (EVENTS, SEARCHES):
        for task in lake.open_table(settings, table).scan().plan_files():
            of_day = names.setdefault(_EPOCH + timedelta(days=task.file.partition[0]), set())
            of_day.add(task.file.file_path)
            of_day.update(each.file_path for each in task.delete_files)
    seed = "\n".join([*click_actions, settings.robots.model_dump_json()]).encode()
    return {
        day: hashlib.blake2b(seed + "\n".join(sorted(paths)).encode(), digest_size=16).hexdigest()
        for day, paths in names.items()
    }


def digests_of(rows: DataFrame) -> Digests:
    """The digest of each day that has rows; `rows` as `history.read` gives them."""
    by_day = rows.groupBy((sf.floor(sf.col("ts") / DAY_MS)).alias("day")).agg(
        sf.bit_xor(sf.xxhash64(*_READ)).alias("digest")
    )
    return {_EPOCH + timedelta(days=row["day"]): row["digest"] for row in by_day.collect()}


def current(session: SparkSession, settings: Settings, click_actions: Sequence[str]) -> Digests:
    """Every day's digest now; only days whose files have changed are judged and read."""
    files = files_of(settings, click_actions)
    known = _looks(settings)
    looks = {day: look for day, look in known.items() if look.files == files.get(day)}
    if changed := files.keys() - looks.keys():
        ranges = []
        for first, last in runs(changed, gap_days=_GAP_DAYS):
            robots.judge(session, settings, first=first, last=last)
            rows = history.read(
                session, settings, click_actions=click_actions, first=first, last=last
            )
            ranges.append(rows)
        found = digests_of(reduce(DataFrame.unionByName, ranges))
        looks |= {day: Look(files[day], found.get(day, 0)) for day in changed}
    if looks != known:
        _keep(settings, looks)
    return {day: look.digest for day, look in looks.items()}


def remember(settings: Settings, files: Files, digests: Digests, days: Iterable[date]) -> None:
    """Keep what a build has read of these days.

    `files` must have been looked up before the rows were read: rows that came between then make
    the next look find other files, and read again.
    """
    known = _looks(settings)
    looks = known | {day: Look(files[day], digests.get(day, 0)) for day in days if day in files}
    if looks != known:
        _keep(settings, looks)


def built(settings: Settings) -> Built:
    """What each day of each view was built from."""
    found: dict[str, dict[date, Sequence[int] | None]] = {
        view.name: dict.fromkeys(_days_with_rows(settings, view.table))
        for view in features.VIEWS
        if view.name in REACHES
    }
    for row in _rows(settings, BUILT_DAYS):
        found.setdefault(row["view"], {})[row["day"]] = row["inputs"]
    return found


def record(settings: Settings, days: Mapping[str, Iterable[date]], digests: Digests) -> None:
    """Say of these days of these views that they were built from these digests."""
    now = {(row["view"], row["day"]): row["inputs"] for row in _rows(settings, BUILT_DAYS)}
    for view, built_days in days.items():
        for day in built_days:
            now[view, day] = [digests.get(each, 0) for each in REACHES[view].of(day)]
    _replace(
        settings,
        BUILT_DAYS,
        [
            {"view": view, "day": day, "inputs": inputs}
            for (view, day), inputs in sorted(now.items())
        ],
    )


def taken_out(settings: Settings, digests: Digests, views: Collection[str]) -> None:
    """Rows with these digests were taken out of the events, and what came of them out of these
    views: the views are as a build would make them now.

    A digest is an exclusive or of its rows, so the rows can be taken out of it. Where they were
    never in it, the outcome is no day's digest, and the day is built again.
    """
    rows = _rows(settings, BUILT_DAYS)
    for row in rows:
        seen = REACHES[row["view"]].of(row["day"])
        if row["view"] in views and len(seen) == len(row["inputs"]):
            pairs = zip(seen, row["inputs"], strict=True)
            row["inputs"] = [digest ^ digests.get(day, 0) for day, digest in pairs]
    if digests and rows:
        _replace(settings, BUILT_DAYS, rows)


def _looks(settings: Settings) -> dict[date, Look]:
    return {row["day"]: Look(row["files"], row["digest"]) for row in _rows(settings, INPUT_DAYS)}


def _keep(settings: Settings, looks: Mapping[date, Look]) -> None:
    rows = [{"day": day, **look._asdict()} for day, look in sorted(looks.items())]
    _replace(settings, INPUT_DAYS, rows)


def _days_with_rows(settings: Settings, table: Table) -> set[date]:
    tasks = lake.open_table(settings, table).scan().plan_files()
    return {_EPOCH + timedelta(days=task.file.partition[0]) for task in tasks}


def _rows(settings: Settings, table: Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lake.open_table(settings, table).scan().to_arrow().to_pylist()
    return found


def _replace(settings: Settings, table: Table, rows: list[dict[str, Any]]) -> None:
    """The whole table: it is a few rows a day, and builds run one at a time."""
    assert table in BUILD_RECORDS
    lake.overwrite(settings, table, pa.Table.from_pylist(rows, schema=table.schema))
