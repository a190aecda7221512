"""What a person should know about files that were read: what is made up, what fits badly."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

from jobs.imports.mapping import DatasetMapping
from jobs.imports.staging import Staged
from pagoda.features import CANDIDATES

_SEEN_DAYS = CANDIDATES.recent_days + CANDIDATES.long_term_days
_FEW = 0.5  # if so few events see the one before them, windows are nearly empty


def notes_of(
    options: DatasetMapping, staged: Mapping[str, Staged], *, validation_from: date
) -> list[str]:
    """The notes, one a line.

    Args:
        staged: the tables that there are, by name.
    """
    return [*_times(options, staged), *_tables(staged), *_days(options, staged, validation_from)]


def _times(options: DatasetMapping, staged: Mapping[str, Staged]) -> list[str]:
    if options.times == "order":
        return [
            "times are made up: from each event to the next a millisecond, in the order of what "
            "the files say; windows go by count, and nobody counts as a robot"
        ]
    if "searches" in staged:
        return []
    share = staged["events"].soon_after("user_id", timedelta(days=_SEEN_DAYS))
    if share >= _FEW:
        return []
    return [
        f"only {share:.0%} of the events that follow another of their user do so within "
        f"{_SEEN_DAYS} days, and windows reach no further back: with times for their order alone "
        '(times = "order", --by-order) they go by count'
    ]


def _tables(staged: Mapping[str, Staged]) -> list[str]:
    events, notes = staged["events"], []
    if "items" not in staged:
        notes.append(
            f"no catalogue: the {len(events.distinct('item_id')):,} items are those of the "
            "events, titles are made up: their ids"
        )
    elif count := _missing(events, staged["items"], "item_id"):
        notes.append(
            f"{count:,} items of the events are not in the catalogue: their events stay, no "
            "search finds them"
        )
    if "searches" not in staged:
        notes.append(
            "no searches: a row to train on is an event and what its user did before it, for "
            "recipes without queries (sasrec, next_item)"
        )
    elif "search_id" not in events.columns():
        notes.append("no event names its search: map search_id to train search")
    elif count := _missing(events, staged["searches"], "search_id"):
        notes.append(f"{count:,} searches that events name are not in the files")
    return notes


def _days(
    options: DatasetMapping, staged: Mapping[str, Staged], validation_from: date
) -> list[str]:
    first = staged["events"].days()[0]
    if options.split == "leave_last_out" or validation_from > first:
        return []
    return [
        f"the events begin on {first} and validation on {validation_from}: no day is left to "
        "train on; set test_days and validation_days"
    ]


def _missing(stage: Staged, other: Staged, column: str) -> int:
    return len(stage.distinct(column).join(other.distinct(column), on=column, how="anti"))
