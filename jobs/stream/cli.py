"""`pagoda stream`: consume, land, replay, simulate, send, send again what was rejected."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.simulate.cli import simulate
from jobs.stream import landing, sequences
from jobs.stream import rebuild as rebuilding
from jobs.stream.item import item
from jobs.stream.replay import Replay, play, recorded
from jobs.stream.replay import send as send_message
from jobs.stream.retry import retry
from pagoda import topics
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import CheckFailed, InputError
from pagoda.features import USER_INTRADAY, Service
from pagoda.messages import Event, Search
from pagoda.publisher import open_producer
from pagoda.settings import Settings, load

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Consume, land, replay, simulate, rebuild."
)
app.command()(sequences.sequences)
app.command()(landing.landing)
app.command()(simulate)
app.command()(item)

_REASONS = 10
_WAIT_S = 30.0
_ASK_S = 0.01


@app.command()
def replay(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day.")],
    speed: Annotated[float, typer.Option(help="60: an hour a minute. 0: as fast as it goes.")] = 0,
    users: Annotated[int | None, typer.Option(help="Only so many users.")] = None,
    shift_to_now: Annotated[
        bool, typer.Option(help="Messages happen as they are sent, under new ids.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Play recorded days of the lake through Kafka. As recorded, it repeats nothing."""
    settings = load()
    plan = Replay(
        first=first.date(), last=last.date(), speed=speed, users=users, shift_to_now=shift_to_now
    )
    messages = recorded(settings, plan)
    topics.ensure(settings)
    producer = open_producer(settings)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=people,
    ) as progress:
        task = progress.add_task(f"{plan.first} to {plan.last}", total=len(messages))
        done = play(
            messages,
            plan,
            settings=settings,
            producer=producer,
            advance=lambda count: progress.advance(task, count),
        )
    producer.close(timeout=1)
    emit_table([asdict(done)], title="Replayed", as_json=as_json)


@app.command()
def rebuild(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Write every user's real-time sequences again, from the lake and Kafka, while all is live.

    Heals rows that are missing, damaged or wrong. After a loss of all of Redis,
    `pagoda features materialise` brings the other views back.
    """
    settings = load()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=people,
        transient=True,
    ) as progress:
        task = progress.add_task("users", total=None)
        done = rebuilding.rebuild(
            settings,
            dry_run=dry_run,
            clock_ms=lambda: time.time_ns() // 1_000_000,
            progress=lambda users, of: progress.update(task, completed=users, total=of),
        )
    if done.lost:
        people.print(
            f"Kafka has deleted records of {', '.join(done.lost)} that landing has not taken: rows "
            "were merged with what is known, not replaced by it.",
            markup=False,
        )
    if as_json:
        emit_json(asdict(done))
    else:
        shown = {name: value for name, value in asdict(done).items() if name != "lost"}
        emit_table([shown], title="Would be rebuilt" if dry_run else "Rebuilt")


@app.command()
def send(
    user: Annotated[str, typer.Option(help="The user's id.")],
    item: Annotated[str | None, typer.Option(help="The item's id: sends an event.")] = None,
    action: Annotated[str, typer.Option(help="impression, click, collect, cart, buy.")] = "click",
    query: Annotated[str | None, typer.Option(help="Sends a search.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the online store shows it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Send one event, or one search, that happens now."""
    message = _message(user, item, action, query)
    settings = load()
    topics.ensure(settings)
    producer = open_producer(settings)
    started = time.monotonic()
    partition, offset = send_message(settings, producer, message)
    sent: dict[str, Any] = {"partition": partition, "offset": offset, **asdict(message)}
    if wait:
        _wait_until_online(settings, message)
        sent["readable_after_ms"] = round((time.monotonic() - started) * 1000)
    producer.close(timeout=1)
    if as_json:
        emit_json(sent)
    else:
        emit_table([{key: value for key, value in sent.items() if value is not None}])


@app.command("retry-rejected")
def retry_rejected(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Send rejected records again that can be read now, each once.

    After an upgrade of `sequences` and `landing`: what a newer producer sent before is not lost.
    """
    settings = load()
    producer = None
    if not dry_run:
        topics.ensure(settings)
        producer = open_producer(settings)
    found = retry(settings, producer)
    if producer:
        producer.close(timeout=1)
    rows: list[dict[str, Any]] = [
        {
            "topic": topic,
            "readable_now": each.readable,
            "sent": each.sent,
            "sent_before": each.retried_before,
            "unreadable": each.unreadable.total(),
        }
        for topic, each in found.items()
    ]
    if as_json:
        reasons = [dict(each.unreadable) for each in found.values()]
        emit_json([row | {"reasons": said} for row, said in zip(rows, reasons, strict=True)])
        return
    emit_table(rows, title="Rejected records")
    for topic, each in found.items():
        for reason, count in each.unreadable.most_common(_REASONS):
            people.print(f"{topic}: {count} × {reason}", markup=False)


def _message(user: str, item: str | None, action: str, query: str | None) -> Event | Search:
    if (item is None) == (query is None):
        raise InputError("say what to send", expected="either --item or --query")
    now_ms = time.time_ns() // 1_000_000
    identifier = uuid.uuid4().hex
    fields: dict[str, Any] = {"user_id": user, "ts": now_ms}
    try:
        if query is not None:
            return Search(search_id=identifier, query=query, **fields)
        return Event(event_id=identifier, item_id=item, action=action, **fields)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [f"{each['loc'][0]}: {each['msg']}" for each in error.errors()]
        raise InputError("this message would be rejected", problems=problems) from error


def _wait_until_online(settings: Settings, message: Event | Search) -> None:
    """Raises: CheckFailed if the online store does not show the message in time."""
    from pagoda.online import OnlineReader

    reader = OnlineReader(
        settings, Service(name="sent", description="What was sent.", views=(USER_INTRADAY,))
    )
    column, key = (
        ("click_events", message.event_key)
        if isinstance(message, Event)
        else ("query_events", message.search_key)
    )
    give_up = time.monotonic() + _WAIT_S
    while time.monotonic() < give_up:
        row = reader.read(message.user_key, time.time_ns() // 1_000_000)[USER_INTRADAY.name]
        if row and key in row[column]:
            return
        time.sleep(_ASK_S)
    raise CheckFailed(
        f"the online store did not show the message within {_WAIT_S:.0f} s",
        where=f"user {message.user_id}",
        next_step="Does `sequences` run (`pagoda status`), and is the action one that counts as a "
        "click in this data set?",
    )


if __name__ == "__main__":
    run(app)
