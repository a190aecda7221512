"""Taobao's multi-behaviour sample (`dataset/ecomm` of DyHATR): a graph of users and items by days.

Eleven days of June 2019, from the CIKM 2019 EComm AI data. There are no queries.

    an edge of `ecomm_edge_train`        click, collect, cart or buy at the beginning of its day
    an item of `ecomm_item_feature`      an item; its title is made up: its id
    an edge of the last day to test      a click on that day: the file says neither kind nor day of
                                         it, its page that it is the day after the ten

What is not brought: pairs that were drawn as no edges, and the last day's edges to validate and to
train a classifier on, since a day is either judged or not (the last of the ten days validates);
features of users, since the lake has no table of users.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from jobs.imports import read, rows
from jobs.imports.mapping import DatasetMapping, Limits, TableMapping, Time
from jobs.imports.read import PLACE, PROBLEM, RAW
from jobs.imports.staged_files import StagedFiles
from pagoda.errors import InputError

NAME = "taobao-ecomm"
VERSION = 1  # raise it with every change of what is written
LAST_DAY = "20190620"

_EDGES, _PAIRS, _ITEMS = "ecomm_edge_train", "ecomm_edge_val_lr_train_test", "ecomm_item_feature"
_PAIR_COLUMNS = ("user", "item", "label", "split")
_LABELS, _SPLITS = ("0", "1"), ("0", "1", "2")
_TABLES = {
    _EDGES: TableMapping(
        files=(_EDGES,),
        format="csv",
        delimiter="\t",
        quote="",
        header=("user", "item", "behaviour", "day"),
        columns={"user_id": "user", "item_id": "item", "action": "behaviour", "ts": "day"},
        actions={"1": "click", "2": "collect", "3": "cart", "4": "buy"},
        time=Time(format="%Y%m%d", zone="Asia/Shanghai"),
    ),
    _PAIRS: TableMapping(
        files=(_PAIRS,),
        format="csv",
        delimiter="\t",
        quote="",
        header=_PAIR_COLUMNS,
        columns={name: name for name in _PAIR_COLUMNS},
    ),
    _ITEMS: TableMapping(
        files=(_ITEMS,),
        format="csv",
        delimiter="\t",
        quote="",
        header=("item", "first_category", "category", "brand", "price"),
        null=("", "0"),  # brand 0 means none
        columns={
            "item_id": "item",
            "title": "item",
            "first_category": "first_category",
            "category": "category",
            "leaf_category": "category",
            "brand": "brand",
            "price": "price",
        },
    ),
}


class TaobaoEcomm(StagedFiles):
    """The sample's folder as a source for the import.

    Args:
        folder: with the three files, compressed or not.
        shifted: move times by whole weeks so that the last day lies in the past week.
    Raises: InputError naming the files that are missing.
    """

    def __init__(
        self, folder: Path, *, scratch: Path, now: datetime | None = None, shifted: bool = True
    ) -> None:
        folder = folder.absolute()
        found = {name: sorted(folder.glob(f"{name}.txt*"))[:1] for name in _TABLES}
        if missing := [f"{name}.txt" for name, files in found.items() if not files]:
            raise InputError("files not found", where=str(folder), found=", ".join(missing))
        self._name_of = {file: name for name, files in found.items() for file in files}
        self._left_out = 0
        everything = ("click", "collect", "cart", "buy")
        super().__init__(
            NAME,
            DatasetMapping(
                click_actions=everything,
                positive_actions=everything,
                test_days=1,
                validation_days=1,
                shift_to_now=shifted,
            ),
            {"items": found[_ITEMS], "events": [*found[_EDGES], *found[_PAIRS]]},
            home=folder,
            said=f"{NAME} {VERSION}",
            scratch=scratch,
            now=now,
        )

    def checked(self, name: str, file: Path) -> Iterator[rows.Checked]:
        """Items, edges, or of the last day's pairs the edges to test."""
        kind = self._name_of[file]
        for batch in read.batches(file, _TABLES[kind], shown_as=self._shown(file)):
            edges = self._to_test(batch) if kind == _PAIRS else batch
            table = _TABLES[_EDGES if kind == _PAIRS else kind]
            yield rows.check(edges, name, table, Limits(), now=self._now)

    def notes(self) -> Sequence[str]:
        """What was assumed and left out, then what is noted of all files."""
        return [
            "days alone are known: what a user did on a day has one time, the day's beginning in "
            "Shanghai; titles are made up: items' ids",
            f"the edges to test are clicks of {LAST_DAY}, before any shift: the files say neither "
            "their kind nor their day",
            f"left out: {self._left_out:,} pairs of the last day (no edges, or edges to validate "
            "or to train a classifier on), and users' features, for which the lake has no table",
            *super().notes(),
        ]

    def _to_test(self, batch: pl.DataFrame) -> pl.DataFrame:
        """The edges to test, as edges of the last day, and the lines that cannot be read."""
        unknown = ~pl.col("label").is_in(_LABELS) | ~pl.col("split").is_in(_SPLITS)
        problem = pl.format("label or split is unknown: '{} {}'", "label", "split")
        judged = batch.with_columns(
            pl.coalesce(PROBLEM, pl.when(unknown).then(problem)).alias(PROBLEM)
        )
        wanted = judged.filter(
            pl.col(PROBLEM).is_not_null() | ((pl.col("label") == "1") & (pl.col("split") == "2"))
        )
        self._left_out += len(batch) - len(wanted)
        return wanted.select(
            "user",
            "item",
            pl.lit("1").alias("behaviour"),
            pl.lit(LAST_DAY).alias("day"),
            PLACE,
            RAW,
            PROBLEM,
        )
