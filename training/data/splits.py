"""Which lines are fitted and which are judged, where it is not days that decide.

Leave last out: each user's last line tests, the one before it validates, and all before these two
is trained on, whichever is judged: then the same towers are judged twice. Lines of the moment that
validates are left out: they would tell its basket. Users with fewer than three lines only train.
Source: Kang & McAuley, ICDM 2018 (SASRec), section IV.

Displayed: it is days that decide, and what is judged is the order of what the searches of these
days displayed (`training.evaluation.displayed`).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, get_args

import polars as pl

from pagoda.dataset import Dataset
from pagoda.errors import NothingToDo
from pagoda.settings import Settings
from training.data import lines
from training.data.lines import Snapshots, Span

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


def lines_of(
    settings: Settings,
    dataset: Dataset,
    span: Span,
    part: Part,
    at: Snapshots = MappingProxyType({}),
) -> pl.DataFrame:
    """The lines of one part: those of its days, or of its place at the end of each user's lines."""
    found = lines.lines(settings, dataset, span, at)
    return leave_last_out(found, part) if dataset.split == "leave_last_out" else found


def leave_last_out(found: pl.DataFrame, part: Part) -> pl.DataFrame:
    """One part of lines that stand in order of time; their order stays."""
    number, count = pl.int_range(pl.len()).over("user_key"), pl.len().over("user_key")
    judged = count >= 3
    match part:
        case "test":
            return found.filter(judged & (number == count - 1))
        case "validation":
            return found.filter(judged & (number == count - 2))
        case "train":
            validates_ms = pl.col("t_ms").tail(2).first().over("user_key")
            earlier = (number < count - 2) & (pl.col("t_ms") < validates_ms)
            return found.filter(~judged | earlier)


def starts_ms(dataset: Dataset, judged: Span) -> int | None:
    """Where the judged days begin; None where it is each user's own line that decides."""
    return None if dataset.split == "leave_last_out" else judged.first_ms


def displayed(
    settings: Settings, dataset: Dataset, judged: Span, at: Snapshots = MappingProxyType({})
) -> pl.DataFrame | None:
    """What the judged days' searches displayed, as `lines.displayed` has it; None if other things
    are judged.

    Raises: NothingToDo if they displayed nothing.
    """
    if dataset.split != "displayed":
        return None
    found = lines.displayed(settings, dataset, judged, at)
    if found.is_empty():
        raise NothingToDo(
            "no search that displayed something led to an item",
            where=f"lake, {judged.first} to {judged.last}",
            next_step="Judge days whose searches have impressions; data sets such as JDsearch "
            "have them for the test day alone.",
        )
    return found
