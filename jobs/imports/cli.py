"""`pagoda import`: bring a data set into the lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from jobs.imports import queries
from jobs.imports.completejourney import CompleteJourney
from jobs.imports.files import Files
from jobs.imports.interactions import Interactions, Options
from jobs.imports.jdsearch import JDsearch
from jobs.imports.run import Outcome, run_import
from jobs.imports.taobao_ecomm import TaobaoEcomm
from pagoda import settings
from pagoda.console import emit_json, emit_table, people, run
from pagoda.dataset import Dataset
from pagoda.errors import InputError

app = typer.Typer(
    add_completion=False,
    help="Bring a data set into the lake. The same import again changes nothing; an interrupted "
    "one goes on; rows that cannot be read go to the table `rejected` with reason and place.",
    no_args_is_help=True,
)


class Split(StrEnum):
    """How the rows that are judged part from those that are trained on."""

    TIME = "time"
    LEAVE_LAST_OUT = "leave-last-out"

    @property
    def recorded(self) -> Literal["time", "leave_last_out"]:
        """As the data set's record says it."""
        return "time" if self is Split.TIME else "leave_last_out"


AsJson = Annotated[bool, typer.Option("--json", help="Counts as JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Take the place of another data set in the lake.")
]
ShiftAnew = Annotated[
    bool,
    typer.Option("--shift-anew", help="Shift times to the present week again, not as recorded."),
]


@app.command()
def completejourney(
    households: Annotated[
        int | None, typer.Option(help="A slice: this many households, and what they bought.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which households the slice takes.")] = 0,
    no_shift: Annotated[
        bool, typer.Option("--no-shift", help="Keep the times of 2017, for studies.")
    ] = False,
    queries_to: Annotated[
        Path | None, typer.Option(help="Also write the query file here and print its SHA-256.")
    ] = None,
    shift_anew: ShiftAnew = False,
    replace: Replace = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """A year of real grocery purchases; queries by the published protocol."""
    source = CompleteJourney(shifted=not no_shift, households=households, seed=seed)
    outcome = run_import(
        settings.load(), source, replace=replace, shift_anew=shift_anew, dry_run=dry_run
    )
    show(outcome, as_json=as_json)
    if queries_to:
        queries_to.write_bytes(b"".join(queries.query_file(source.query_rows())))
        people.print(
            f"{queries_to}: sha256 {queries.checksum(source.query_rows())}", soft_wrap=True
        )


@app.command()
def files(
    mapping: Annotated[
        Path, typer.Option(help="The mapping file (TOML); see docs/your-own-data.md.")
    ],
    shift_anew: ShiftAnew = False,
    replace: Replace = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Your own items, events and searches, from CSV or Parquet files."""
    loaded = settings.load()
    with closing(Files(mapping, scratch=loaded.scratch)) as source:
        outcome = run_import(
            loaded, source, replace=replace, shift_anew=shift_anew, dry_run=dry_run
        )
    show(outcome, as_json=as_json)


@app.command()
def interactions(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Lines: user, item, perhaps time, perhaps action."),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the data set; default: the first file's.")
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="user, item, time, action in the file's order, with commas; - skips one."
        ),
    ] = "",
    header: Annotated[
        bool | None, typer.Option(help="Whether the first line names the columns.")
    ] = None,
    time_format: Annotated[
        str | None, typer.Option(help="iso, epoch_s, epoch_ms or a strptime pattern.")
    ] = None,
    zone: Annotated[str, typer.Option(help="Of times that name no zone.")] = "UTC",
    action: Annotated[
        list[str] | None,
        typer.Option(metavar="THEIRS=OURS", help="E.g. view=click, purchase=buy; repeatable."),
    ] = None,
    by_order: Annotated[
        bool,
        typer.Option(
            "--by-order", help="Take from times their order alone: windows then go by count."
        ),
    ] = False,
    split: Annotated[
        Split | None,
        typer.Option(
            help="Judge the last days (default, if times are real) or each user's last item."
        ),
    ] = None,
    no_shift: Annotated[bool, typer.Option("--no-shift", help="Keep the times, for studies.")] = (
        False
    ),
    shift_anew: ShiftAnew = False,
    replace: Replace = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Lines of user and item, with or without times and actions; no queries, no catalogue."""
    loaded = settings.load()
    options = Options(
        name=name,
        columns=tuple(columns.split(",")) if columns else (),
        header=header,
        time_format=time_format,
        zone=zone,
        actions=_pairs(action or []),
        by_order=by_order,
        split=split.recorded if split else None,
        shifted=not no_shift,
    )
    with closing(Interactions(files, options, scratch=loaded.scratch)) as source:
        outcome = run_import(
            loaded, source, replace=replace, shift_anew=shift_anew, dry_run=dry_run
        )
    show(outcome, as_json=as_json)


@app.command()
def jdsearch(
    users: Annotated[
        Path, typer.Argument(metavar="USER_BEHAVIOR_DATA", help="What users did, a line each.")
    ],
    products: Annotated[
        Path, typer.Argument(metavar="PRODUCT_META_DATA", help="The catalogue, a line a product.")
    ],
    no_shift: Annotated[
        bool, typer.Option("--no-shift", help="Keep the times of 2022, for studies.")
    ] = False,
    shift_anew: ShiftAnew = False,
    replace: Replace = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """JDsearch: real product searches, and what they displayed (SIGIR 2023)."""
    loaded = settings.load()
    with closing(JDsearch(users, products, scratch=loaded.scratch, shifted=not no_shift)) as source:
        outcome = run_import(
            loaded, source, replace=replace, shift_anew=shift_anew, dry_run=dry_run
        )
    show(outcome, as_json=as_json)


@app.command()
def taobao_ecomm(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where ecomm_edge_train.txt and more are.")
    ],
    no_shift: Annotated[
        bool, typer.Option("--no-shift", help="Keep the times of 2019, for studies.")
    ] = False,
    shift_anew: ShiftAnew = False,
    replace: Replace = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Taobao's multi-behaviour sample: clicks, collects, carts and buys by days, no queries."""
    loaded = settings.load()
    with closing(TaobaoEcomm(folder, scratch=loaded.scratch, shifted=not no_shift)) as source:
        outcome = run_import(
            loaded, source, replace=replace, shift_anew=shift_anew, dry_run=dry_run
        )
    show(outcome, as_json=as_json)


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Counts on stdout; what they mean, for people, on stderr."""
    if as_json:
        emit_json(outcome.as_json())
        return
    for name, rows in outcome.samples.items() if outcome.dry_run else ():
        people.print(f"[bold]{name}[/], as it would be stored")
        for row in rows:
            people.print(_one_line(row), markup=False, highlight=False, soft_wrap=True)
    emit_table(
        ({"table": name, **vars(counts)} for name, counts in outcome.tables.items()),
        title="Would be imported; nothing was written" if outcome.dry_run else "Imported",
    )
    record = outcome.dataset
    lines = [
        f"{record.name}: {record.first_day} to {record.last_day}, times shifted by "
        f"{outcome.shift_days} days",
        f"{_judged(record)}; clicks are {', '.join(record.click_actions)}; queries: "
        f"{record.query_protocol}",
        *(f"rejected: {problem}" for problem in outcome.problems),
        *(f"note: {note}" for note in outcome.notes),
    ]
    for line in lines:
        people.print(line, markup=False, highlight=False, soft_wrap=True)


def _judged(record: Dataset) -> str:
    if record.split == "leave_last_out":
        return "each user's last item tests, the one before it validates"
    days = f"validation from {record.validation_from}, test from {record.test_from}"
    return f"{days}: what searches displayed is ranked" if record.split == "displayed" else days


def _pairs(said: Sequence[str]) -> dict[str, str]:
    """THEIRS=OURS as a mapping. Raises: InputError naming all that is written otherwise."""
    if wrong := [each for each in said if "=" not in each]:
        raise InputError(
            "not an action and its name here",
            where="--action",
            found=", ".join(wrong),
            expected="THEIRS=OURS",
        )
    return dict(each.rsplit("=", 1) for each in said)


def _one_line(row: Mapping[str, Any]) -> str:
    return "  " + ", ".join(f"{name}={value}" for name, value in row.items() if value is not None)


@app.callback()
def _group() -> None:
    """One command a source."""


if __name__ == "__main__":
    run(app)
