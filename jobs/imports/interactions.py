"""Lines of (user, item [, time [, action]]) without a mapping file: what they are is looked at.

    files -> `shape_of` the first lines -> a `Mapping`, as a person would have written it -> `Files`

The import says what it took the lines for, and options say otherwise. All that `Files` does with
rows holds here.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from jobs.imports.files import Files
from jobs.imports.mapping import DatasetMapping, Mapping, TableMapping, Time
from jobs.imports.shape import QUOTED, Column, Shape, shape_of
from pagoda.errors import InputError

_FIELD: Map[Column, str] = {
    "user": "user_id",
    "item": "item_id",
    "time": "ts",
    "action": "action",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person says about the lines; what is left out is looked at.

    Attributes:
        name: of the data set; else the first file's.
        columns: user, item, time, action in the order of the file; "-" for others.
        header: whether the first line names the columns.
        time_format, zone: as in a mapping file.
        actions: what the files call an action to what Pagoda calls it.
        by_order: take from times no more than their order.
        split: how training and judged rows part.
        shifted: move times by whole weeks so that the last day lies in the past week.
    """

    name: str | None = None
    columns: tuple[str, ...] = ()
    header: bool | None = None
    time_format: str | None = None
    zone: str = "UTC"
    actions: Map[str, str] | None = None
    by_order: bool = False
    split: Literal["time", "leave_last_out"] | None = None
    shifted: bool = True


class Interactions(Files):
    """Files of interactions as a source for the import.

    Raises: InputError listing all that is not understood.
    """

    def __init__(
        self,
        files: Sequence[Path],
        options: Options,
        *,
        scratch: Path,
        now: datetime | None = None,
    ) -> None:
        paths = [file.absolute() for file in dict.fromkeys(files)]
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise InputError("file not found", where=", ".join(missing))
        self._shape = shape_of(
            paths[0],
            columns=options.columns,
            header=options.header,
            time_format=options.time_format,
        )
        home = Path(os.path.commonpath([path.parent for path in paths]))
        super().__init__(
            home / paths[0].name,
            scratch=scratch,
            now=now,
            mapping=mapping_of(self._shape, paths, home, options),
        )

    def notes(self) -> Sequence[str]:
        """What the lines were taken for, then what `Files` notes."""
        return [str(self._shape), *super().notes()]


def mapping_of(shape: Shape, paths: Sequence[Path], home: Path, options: Options) -> Mapping:
    """The mapping that a person would write for these files. Raises: InputError."""
    timed = shape.time_format is not None
    real = timed and not options.by_order
    names = {_FIELD[column]: shape.names[place] for column, place in shape.places.items()}
    acts = "action" in shape.places
    if options.actions and not acts:
        raise InputError("--action translates actions, and there is no column of them")
    try:
        return Mapping(
            name=options.name or _name_of(paths[0]),
            dataset=DatasetMapping(
                # With actions, all that a user did to an item is part of the user's sequence.
                click_actions=("click", "collect", "cart", "buy") if acts else ("click",),
                positive_actions=("click", "collect", "cart", "buy") if acts else ("click",),
                times="real" if real else "order",
                split=options.split or ("time" if real else "leave_last_out"),
                shift_to_now=options.shifted,
            ),
            events=TableMapping(
                files=tuple(glob.escape(os.path.relpath(path, home)) for path in paths),
                format="csv",
                delimiter=shape.delimiter,
                quote='"' if shape.delimiter in QUOTED else "",
                header=() if shape.header else shape.names,
                columns=names,
                constants={} if acts else {"action": "click"},
                actions=dict(options.actions or {}),
                time=Time(format=shape.time_format or "iso", zone=options.zone),
            ),
        )
    except ValidationError as error:
        said = [str(each["msg"]).removeprefix("Value error, ") for each in error.errors()]
        raise InputError("the options cannot be used", problems=said) from None


def _name_of(path: Path) -> str:
    """A name for the data set from its file's: what comes before the first point."""
    bare = re.sub(r"[^a-z0-9_-]+", "-", path.name.split(".")[0].lower()).strip("-_")
    return bare[:60] or "interactions"
