"""`pagoda check`: parity, contracts, index, kill. Exits non-zero when something is wrong."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pagoda import registry, spark
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import CheckFailed, InputError, NothingToDo
from pagoda.settings import Settings, load

if TYPE_CHECKING:
    from jobs.checks.explain import Difference
    from jobs.checks.parity import Report

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Is what is served right?")
_SHOWN = 20
_DAY = "%Y-%m-%d"
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.callback()
def main() -> None:
    """Is what is served right?"""


@app.command()
def parity(
    users: Annotated[int, typer.Option(min=1, help="How many users to read and compare.")] = 100,
    served: Annotated[
        bool, typer.Option("--served", help="Compare sampled requests instead, as they were.")
    ] = False,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=[_DAY], help="With --served: first UTC day; yesterday."),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option("--to", formats=[_DAY], help="With --served: last UTC day; today."),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="With --served: how many requests at most.")
    ] = 1000,
    in_flight_s: Annotated[
        float,
        typer.Option(min=0, help="With --served: so long a record may travel to the online store."),
    ] = 2.0,
    hide_queries: Annotated[
        bool, typer.Option("--hide-queries", help="No query texts beside users: for logs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Online features equal Feast's historical ones, element by element.

    Every difference is printed with the lake's record of it and the reason in a word.
    """
    settings = load()
    if served:
        today = datetime.now(UTC)
        report = _served(
            settings,
            first=(first or today - timedelta(days=1)).date(),
            last=(last or today).date(),
            limit=requests,
            in_flight_s=in_flight_s,
        )
    elif first or last:
        raise InputError("--from and --to are days of served requests", next_step="Add --served.")
    else:
        from jobs.checks.parity import check  # imports Spark and Feast: seconds

        with spark.session(settings, "parity") as session:
            report = check(session, settings, users=users, say=people.print)
    report.publish(settings)
    _show(report, as_json=as_json, hide_queries=hide_queries)


def _served(
    settings: Settings, *, first: date, last: date, limit: int, in_flight_s: float
) -> Report:
    from jobs.checks.served_parity import check, sample  # imports Spark and Feast: seconds

    sampled = sample(settings, first=first, last=last, limit=limit)
    with ExitStack() as stack:
        return check(
            lambda: stack.enter_context(spark.session(settings, "parity")),
            settings,
            sampled,
            in_flight_s=in_flight_s,
            say=people.print,
        )


def _show(report: Report, *, as_json: bool, hide_queries: bool) -> None:
    """The report on stdout. Raises: CheckFailed on differences, NothingToDo without comparison."""
    from jobs.checks.explain import REASONS

    found = [each.without_texts() if hide_queries else each for each in report.different]
    counts = {reason: len(ids) for reason, ids in report.skipped.items()}
    if as_json:
        emit_json({**report.as_json(), "different": [asdict(each) for each in found]})
    else:
        summary = {
            "compared": report.compared,
            "elements": report.elements,
            "differences": len(found),
            **counts,
            "seconds": report.seconds,
        }
        emit_table([summary], title=f"Parity, {report.name}")
        if found:
            emit_table(
                [_row(each) for each in found],
                title="Differences: each element that only one side has",
            )
            for why in sorted({each.why for each in report.different}):
                people.print(f"  {why}: {REASONS[why]}", highlight=False)
    if not report.equal:
        raise CheckFailed(
            "online and historical features differ",
            found=f"{len(found)} elements, in {report.compared} compared",
            next_step="They are shown above, each with the lake's record and the reason.",
        )
    if not report.compared:
        raise NothingToDo(
            "nothing could be compared",
            found=", ".join(f"{count} {reason}" for reason, count in counts.items()),
            next_step="docs/streams.md says what each word means.",
        )


def _row(difference: Difference) -> dict[str, str]:
    """A difference as a row that fits a log's width: three facts to a cell."""
    said = difference
    record = (
        [f"{said.action} {said.id}: {said.what}", f"known {said.ingested_at}", str(said.source)]
        if said.id
        else ["none"]
    )
    return {
        "user, t, request": "\n".join([said.user, said.t, said.request or ""]).strip(),
        "window": said.window,
        "only": said.side,
        "time, key, value": "\n".join(str(each or "") for each in (said.ts, said.key, said.value)),
        "why": said.why,
        "the lake's record": "\n".join(record),
    }


@app.command()
def freshness(
    html: Annotated[
        Path | None,
        typer.Option(help="Where the report with plots goes.", show_default="reports/quality.html"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Age, nulls, lengths and drift of every view, offline and online, and what waits in Kafka.

    Fails if a limit of the settings' part `quality` is exceeded, naming each.
    """
    from jobs.quality.check import check  # imports Polars and Feast: seconds
    from jobs.quality.judge import judge
    from jobs.quality.report import page
    from jobs.quality.show import as_json as for_programs
    from jobs.quality.show import publish, tables

    settings = load()
    report = check(settings, say=people.print)
    findings = judge(report, settings.quality)
    publish(settings, report, findings)
    target = html or settings.reports / "quality.html"
    target.write_bytes(page(report, findings, settings.quality).encode())
    if as_json:
        emit_json(for_programs(report, findings))
    else:
        tables(report, findings)
    people.print(f"Report with plots: {target}", highlight=False)
    failed = [each for each in findings if each.level == "fail"]
    if failed:
        raise CheckFailed(
            "limits are exceeded",
            found=str(len(failed)),
            problems=[str(each) for each in failed],
            next_step="Limits are settings, part `quality`; docs/features.md says what to look at.",
        )


@app.command()
def contracts(as_json: Json = False) -> None:
    """Code, Feast's registry, the lake's tables and the current bundle agree on features."""
    from jobs.checks.contracts import check  # imports Feast: seconds

    found = check(load())
    if as_json:
        emit_json([asdict(each) for each in found])
    else:
        rows = [
            {"part": each.part, "name": each.name, "agrees": "; ".join(each.problems) or "yes"}
            for each in found
        ]
        emit_table(rows, title="Contracts")
    wrong = [each for each in found if each.problems]
    if wrong:
        raise CheckFailed(
            "contracts differ",
            found=", ".join(f"{each.part} {each.name}" for each in wrong),
            next_step="Run `pagoda features apply`; a bundle must be trained again.",
        )


@app.command()
def index(
    bundle: Annotated[str | None, typer.Option(help="Which bundle; default the current.")] = None,
    as_json: Json = False,
) -> None:
    """The collection in Milvus answers as exact search does, under filters of all kinds."""
    from jobs.index.build import recheck, show, shown

    settings = load()
    name = bundle or registry.current(settings)
    if name is None:
        raise NothingToDo("no bundle is current yet", next_step="Build one: `pagoda index`.")
    with shown() as progress:
        report = recheck(settings, name, progress=progress)
    show(report, as_json=as_json)


@app.command()
def kill(
    rounds: Annotated[int, typer.Option(min=1, help="How many; 300 is a release run.")] = 300,
    seed: Annotated[int, typer.Option(help="The same seed plans the same rounds.")] = 0,
    only: Annotated[
        str,
        typer.Option(
            help="Kinds, by commas: consumer, redis, broker, landing, batch, materialise, index, "
            "scheduler. Default all, in the proportions of a release run."
        ),
    ] = "",
    home: Annotated[
        Path | None,
        typer.Option(
            help="Where journal, report and the private home lie; default PAGODA_HOME/kill."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an unfinished run.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the private home and the journal at the end.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Kill servers and jobs with SIGKILL under load, again and again, and compare what is left.

    Everything runs in a private PAGODA_HOME: your own servers are never touched. An interrupted
    run goes on where it stopped when the same command is given again.
    """
    from jobs.checks.kill import harness

    settings = load()
    folder = (home or settings.home / "kill").absolute()
    names = tuple(filter(None, only.replace(" ", "").split(",")))
    report = harness.check(
        settings,
        harness.Run(rounds=rounds, seed=seed, only=names),
        folder=folder,
        fresh=fresh,
        keep=keep,
        say=lambda each, of, differences: people.print(
            f"round {each.number} of {of}: {each.kind}, {each.instant}"
            + (f" ({differences} differences so far)" if differences else ""),
            markup=False,
        ),
    )
    if as_json:
        emit_json(report)
    else:
        shown = ("rounds", "kills", "messages", "seconds", "differences")
        emit_table(
            [
                {"kind": kind, **{name: of[name] for name in shown}}
                for kind, of in report["kinds"].items()
            ],
            title=f"kill -9: {report['done']} rounds, {report['kills']} kills, "
            f"{len(report['differences'])} differences",
        )
        if report["differences"]:
            emit_table(report["differences"][:_SHOWN], title="Differences")
    if report["differences"]:
        raise CheckFailed(
            "something was lost, doubled or left half done",
            found=f"{len(report['differences'])} differences in {report['done']} rounds",
            next_step=f"See {folder / 'report.md'}.",
        )


if __name__ == "__main__":
    run(app)
