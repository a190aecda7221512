"""What an import recorded about its data set: `$PAGODA_HOME/dataset.json`.

The actions that count as clicks, the shift to now, and the days that evaluation uses belong to
the data, not to the code: every room reads them here.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pagoda import whole
from pagoda.errors import NothingToDo
from pagoda.settings import Settings

Split = Literal["time", "leave_last_out", "displayed"]


class Dataset(BaseModel):
    """The imported data set.

    Attributes:
        click_actions: actions that count as clicks in R, S and the click part of L.
        positive_actions: actions on an item that make a training row.
        requests: what a training row answers: a search that named the item, or, where there are no
            searches, the moment just before the event itself.
        times: whether times say when, or only in which order: then they are made up, a millisecond
            apart, windows go by count and no day says who is a robot.
        split: what is judged: the last days' rows; each user's last row (the one before it for
            validation), as data sets of research do; or how the last days' searches rank what
            they displayed.
        shift_days: whole weeks added to every time at import, in days.
        first_day, last_day: the first and last UTC day with events, after the shift.
        test_from, validation_from: first day of the test and of the validation week, shifted;
            the validation week ends where the test week begins.
        query_protocol: how queries came to be, said with every number from them.
        fingerprint: of source files, mapping and options.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    click_actions: tuple[str, ...] = ("click",)
    positive_actions: tuple[str, ...] = ("click", "buy")
    requests: Literal["searches", "events"] = "searches"
    times: Literal["real", "order"] = "real"
    split: Split = "time"
    shift_days: int = 0
    first_day: date
    last_day: date
    validation_from: date
    test_from: date
    query_protocol: str
    fingerprint: str


def path(settings: Settings) -> Path:
    """Where the record lies."""
    return settings.home / "dataset.json"


def load(settings: Settings) -> Dataset:
    """The imported data set. Raises: NothingToDo if nothing was imported yet."""
    try:
        return Dataset.model_validate_json(path(settings).read_text())
    except FileNotFoundError:
        raise NothingToDo(
            "no data set was imported",
            where=str(path(settings)),
            next_step="Run `pagoda import`: completejourney, files, interactions, jdsearch or "
            "taobao-ecomm.",
        ) from None


def save(settings: Settings, dataset: Dataset) -> None:
    """Write the record whole or not at all."""
    whole.write(path(settings), dataset.model_dump_json(indent=2))
