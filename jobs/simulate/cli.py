"""`pagoda stream simulate`: shoppers over the lake's catalogue, to Kafka, files or a lake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.imports.cli import show
from jobs.imports.run import run_import
from jobs.simulate import catalogue as catalogues
from jobs.simulate import files, live
from jobs.simulate.behaviour import Behaviour, Simulation
from jobs.simulate.catalogue import Catalogue
from jobs.simulate.source import Simulated
from pagoda import topics
from pagoda.console import emit_table, people
from pagoda.errors import InputError
from pagoda.settings import Settings, load

_RATE = 100.0
_DAYS = 14
_HASTY = 3.0  # from here on shoppers look like robots


def simulate(
    rate: Annotated[
        float | None,
        typer.Option(
            help=f"Messages a second to Kafka, {_RATE:.0f} unless given. 0: all it takes."
        ),
    ] = None,
    users: Annotated[int, typer.Option(help="Shoppers and robots.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Another seed, other shoppers.")] = 1,
    seconds: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
    messages: Annotated[int | None, typer.Option(help="Stop after so many.")] = None,
    to_files: Annotated[
        Path | None, typer.Option(help="Write simulated days into this folder instead.")
    ] = None,
    to_lake: Annotated[
        Path | None, typer.Option(help="Import simulated days into this PAGODA_HOME instead.")
    ] = None,
    days: Annotated[int | None, typer.Option(help=f"How many days; {_DAYS} unless given.")] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The last UTC day; yesterday unless given."),
    ] = None,
    robots: Annotated[
        float, typer.Option(help="Share of users that are robots.")
    ] = Behaviour.robots,
    noise: Annotated[
        float, typer.Option(help="Chance of a click by mistake on what is looked at.")
    ] = Behaviour.click_noise,
    impressions: Annotated[
        bool, typer.Option(help="Whether events hold what was shown, too.")
    ] = True,
    truth: Annotated[bool, typer.Option(help="Keep the truth about a stream.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Simulated shoppers and robots over the lake's catalogue. All ids begin with sim-."""
    _refuse_nonsense(
        places={"--to-files": to_files, "--to-lake": to_lake},
        streaming={"--rate": rate, "--seconds": seconds, "--messages": messages},
        by_days={"--days": days, "--until": until},
    )
    settings = load()
    catalogue = catalogues.read(settings)
    behaviour = Behaviour(robots=robots, click_noise=noise)
    by_days = _simulated_days(seed, users, days, until, behaviour)
    if to_lake:
        source = Simulated(by_days, catalogue, impressions=impressions)
        show(run_import(load(home=to_lake.absolute()), source), as_json=as_json)
    elif to_files:
        with _counting(f"simulating {by_days.days} days") as advance:
            written = files.write(
                by_days, catalogue, to_files, impressions=impressions, advance=advance
            )
        summary = {"simulated": True, **asdict(written), "folder": str(to_files)}
        emit_table([summary], title="Simulated", as_json=as_json)
    else:
        now = replace(by_days, days=1, run=f"~{int(time.time())}")
        plan = live.Plan(
            rate=_RATE if rate is None else rate,
            seconds=seconds,
            messages=messages,
            impressions=impressions,
        )
        sent = _stream(settings, now, catalogue, plan, keep_truth=truth)
        emit_table([sent], title="Simulated shoppers, sent to Kafka", as_json=as_json)


def _refuse_nonsense(
    *, places: dict[str, Any], streaming: dict[str, Any], by_days: dict[str, Any]
) -> None:
    """Raises: InputError if options do not go together."""
    place = [name for name, value in places.items() if value is not None]
    others = streaming if place else by_days
    problems = [
        f"{name} goes {'without' if place else 'with'} {' and '.join(place or places)}"
        for name, value in others.items()
        if value is not None
    ]
    if len(place) > 1:
        problems.append(f"{' and '.join(place)}: one of them")
    if problems:
        raise InputError("these options do not go together", problems=problems)


def _simulated_days(
    seed: int, users: int, days: int | None, until: datetime | None, behaviour: Behaviour
) -> Simulation:
    length = _DAYS if days is None else days
    last = until.date() if until else datetime.now(UTC).date() - timedelta(days=1)
    first = last - timedelta(days=max(length, 1) - 1)
    return Simulation(seed=seed, users=users, days=length, first_day=first, behaviour=behaviour)


def _stream(
    settings: Settings,
    simulation: Simulation,
    catalogue: Catalogue,
    plan: live.Plan,
    *,
    keep_truth: bool,
) -> dict[str, Any]:
    topics.ensure(settings)
    crowd = live.Crowd.of(simulation, catalogue, plan)
    if crowd.pace and crowd.pace > _HASTY:
        people.print(_hasty(simulation, crowd))
    folder = settings.simulations / f"{simulation.name}{simulation.run}" if keep_truth else None
    if folder:
        files.describe_stream(simulation, catalogue, folder)
    with _counting("sending; Ctrl-C ends it") as advance:
        sent = live.send(
            simulation,
            catalogue,
            plan,
            crowd=crowd,
            settings=settings,
            truth=folder and folder / "truth" / "impressions",
            advance=advance,
        )
    return {**asdict(sent), "truth": str(folder) if folder else None}


def _hasty(simulation: Simulation, crowd: live.Crowd) -> str:
    enough = min(crowd.needed or 0, live.MOST_AT_ONCE)
    advice = f" --users {enough} would help." if simulation.users < enough else ""
    return (
        f"Shoppers act {crowd.pace:g} times as fast as people do to reach this rate, so that the "
        f"rules for robots may hit them.{advice}"
    )


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None]]:
    """Shows how many messages there are so far, and how many a second."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} messages"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        console=people,
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=None, rate=0.0)
        began = time.monotonic()

        def advance(count: int) -> None:
            done = progress.tasks[task].completed + count
            passed = max(time.monotonic() - began, 1e-9)
            progress.update(task, completed=done, rate=done / passed)

        yield advance
