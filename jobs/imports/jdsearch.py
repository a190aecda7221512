"""JDsearch: real product searches of some 170,000 shoppers, with what each one's last displayed.

A line of `user_behavior_data` is a user: what was done over a year, and one last search with the
candidates that it displayed and what became of each. `product_meta_data` is the catalogue. Ids and
terms are anonymised numbers. Source: Liu et al., SIGIR 2023, doi 10.1145/3539618.3591900.

    a thing done              click, cart, buy (ORD) or collect (FLW), with its search if it had one
    neighbours, equal words   one search, at the first of them, unless half an hour lies between two
    the last search           a search at `SEARCHED_AT`; an impression for each candidate, and the
                              click, cart or buy of those that something came of

**Times.** The files have intervals in seconds and no dates. All last searches are of 17 October
2022 (section 3.1 of the paper); at what time of that day is not published. Here all are at its very
beginning, UTC, and everything else is as long before as the intervals say: what users did before
lies before the test day, which holds the last searches alone.

**Order.** Candidates of which something came stand first in the files. `position` is the place in
the file and no rank of display: to rank or to break ties by it is to look at the answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from jobs.imports import jdsearch_lines, read, rows
from jobs.imports.jdsearch_lines import SEARCHED_AT, words
from jobs.imports.mapping import DatasetMapping, Limits, TableMapping
from jobs.imports.staged_files import StagedFiles
from pagoda.errors import InputError

NAME = "jdsearch"
VERSION = 1  # raise it with every change of what is written
QUERIES = "real, of shoppers of JD.com; terms are anonymised numbers (JDsearch, SIGIR 2023)"

_NOTHING = ("", "-1")
_WITH_IDS = {
    "brand_name": "brand_id",
    **{f"cate_name_{level}": f"cate_id_{level}" for level in range(1, 5)},
}
_PRODUCT_COLUMNS = (
    "wid",
    "name",
    *(each for name, number in _WITH_IDS.items() for each in (number, name)),
    "shop_id",
)
_PEOPLE = TableMapping(
    files=("user_behavior_data",),
    format="csv",
    delimiter="\t",
    quote="",
    columns={name: name for name in jdsearch_lines.COLUMNS},
)
_CATALOGUE = TableMapping(
    files=("product_meta_data",),
    format="csv",
    delimiter="\t",
    quote="",
    null=_NOTHING,
    columns={
        "item_id": "wid",
        "title": "name",
        "brand": "brand_name",
        "first_category": "cate_name_1",
        "category": "cate_name_3",
        "leaf_category": "cate_name_4",
        "shop": "shop_id",
    },
    attributes={"second_category": "cate_name_2", **{each: each for each in _WITH_IDS.values()}},
)


class JDsearch(StagedFiles):
    """Both files as a source for the import.

    Args:
        shifted: move times by whole weeks so that the last day lies in the past week.
    Raises: InputError naming files and columns that are missing.
    """

    def __init__(
        self,
        users: Path,
        products: Path,
        *,
        scratch: Path,
        now: datetime | None = None,
        shifted: bool = True,
    ) -> None:
        users, products = users.absolute(), products.absolute()
        if missing := [str(path) for path in (users, products) if not path.is_file()]:
            raise InputError("file not found", where=", ".join(missing))
        people, problems = _as_written(users, _PEOPLE, jdsearch_lines.COLUMNS)
        catalogue, more = _as_written(products, _CATALOGUE, _PRODUCT_COLUMNS)
        if problems or more:
            raise InputError(
                "the files are not JDsearch's; nothing was read",
                problems=[*problems, *more],
                next_step="Give user_behavior_data first, then product_meta_data.",
            )
        self._tables = {"items": catalogue, "events": people, "searches": people}
        self._lists = self._taken_first = 0
        super().__init__(
            NAME,
            DatasetMapping(
                # The files say of each thing done how far it went: who bought had clicked.
                click_actions=("click", "collect", "cart", "buy"),
                positive_actions=("click", "collect", "cart", "buy"),
                split="displayed",
                test_days=1,
                shift_to_now=shifted,
                queries=QUERIES,
            ),
            {"items": [products], "events": [users], "searches": [users]},
            home=Path(os.path.commonpath([users.parent, products.parent])),
            said=f"{NAME} {VERSION}",
            scratch=scratch,
            now=now,
        )

    def checked(self, name: str, file: Path) -> Iterator[rows.Checked]:
        """Rows of the catalogue, or what the lines of users tell of."""
        table = self._tables[name]
        for batch in read.batches(file, table, shown_as=self._shown(file)):
            yield self._items_of(batch, table) if name == "items" else self._told(batch, name)

    def notes(self) -> Sequence[str]:
        """What was made of lines, times and lists, then what is noted of all files."""
        return [
            "a line is a user, its number the id; all last searches are taken to be at "
            f"{SEARCHED_AT:%Y-%m-%d %H:%M} UTC, before any shift: the day is the paper's, the time "
            "is not published; everything else is as long before as the intervals say",
            f"in {self._taken_first:,} of {self._lists:,} lists in which something was taken and "
            "something was not, the taken stand first: position is the place in the file, no rank "
            "of display",
            *super().notes(),
        ]

    def _items_of(self, batch: pl.DataFrame, table: TableMapping) -> rows.Checked:
        """Names are words; where one is missing, its id stands in."""
        texts = [*table.columns.values(), *table.attributes.values()]
        named = batch.with_columns(words(pl.col(each)) for each in texts).with_columns(
            pl.when(pl.col(name).is_in(_NOTHING))
            .then(pl.col(number))
            .otherwise(pl.col(name))
            .alias(name)
            for name, number in _WITH_IDS.items()
        )
        return rows.check(named, "items", table, Limits(), now=self._now)

    def _told(self, batch: pl.DataFrame, name: str) -> rows.Checked:
        good, bad = jdsearch_lines.judged(batch)
        if name == "searches":  # bad lines were counted with the events
            return rows.Checked(accepted=jdsearch_lines.searches(good), rejected=bad.clear())
        lists, taken_first = jdsearch_lines.taken_first(good)
        self._lists += lists
        self._taken_first += taken_first
        return rows.Checked(accepted=jdsearch_lines.events(good), rejected=bad)


def _as_written(
    path: Path, table: TableMapping, names: Sequence[str]
) -> tuple[TableMapping, list[str]]:
    """How the file is read, with a line that names its columns or without one; what it lacks."""
    first = next(iter(read.first_lines(path, 1)), "").rstrip("\r\n").split("\t")
    if names[0] not in first:
        return table.model_copy(update={"header": tuple(names)}), []
    lacking = [name for name in names if name not in first]
    return table, [
        f"{path.name}: no column {name}; the file has {', '.join(first)}" for name in lacking
    ]
