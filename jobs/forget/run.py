"""`pagoda forget USER`: lake, online store, scratch, logs; and nobody is brought back.

The list of the forgotten comes first (`pagoda.forgotten`): from then on neither the stream nor
landing nor an import takes in what the user did before. Every step may be repeated, so a run that
was killed is finished by running it again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.batch import build, history, inputs
from jobs.batch.plan import Digests
from jobs.forget import files, kafka, tables, words
from jobs.forget.online import Online
from jobs.imports import run as imports
from jobs.lake import care
from pagoda import dataset, features, forgotten, lake, spark
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import Conflict, InputError, NothingToDo
from pagoda.ids import key_of
from pagoda.settings import Settings, load

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

app = typer.Typer(add_completion=False, help="Remove a user from everything that Pagoda keeps.")
_OF_USERS = frozenset(view.name for view in features.VIEWS if view.entity == "user_key")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where something of the user was.

    Attributes:
        found: rows, folders or mentions.
        note: what else to know.
    """

    place: str
    found: int
    note: str = ""


@app.command()
def main(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Remove a user from lake, online store, scratch files and logs.

    Snapshots of the lake that hold the user go too. What the user did before is never taken in
    again, whatever is replayed or imported; what Kafka still holds, and until when, is shown.
    """
    settings = load()
    if not (dry_run or yes):
        _confirm(user)
    with spark.session(settings, "forget") as session:
        places = look(session, settings, user) if dry_run else forget(session, settings, user)
    if as_json:
        emit_json({"dry_run": dry_run, "places": [asdict(each) for each in places]})
    else:
        title = "Would be removed" if dry_run else "Removed"
        emit_table([asdict(each) for each in places], title=title)


def look(session: SparkSession, settings: Settings, user: str) -> list[Place]:
    """What there is of a user, and where. Raises: DependencyDown if Redis or Kafka is."""
    key = key_of("user", user)
    online, held = Online(settings, key), kafka.held_until(settings)
    lake.create_all(settings)
    mentions = files.named_in_logs(settings, words.in_logs(user, key))
    return [
        *(_of_table(tables.look(session, settings, each)) for each in tables.traces(user)),
        Place(place="online store", found=online.rows()),
        Place(place="scratch", found=len(files.scratch(settings)), note="all of it goes"),
        Place(place="logs", found=sum(mentions.values())),
        *_of_kafka(held),
    ]


def forget(session: SparkSession, settings: Settings, user: str) -> list[Place]:
    """Remove the user. Returns: what was where.

    Raises:
        NothingToDo: nobody of that id is known, nor was forgotten before.
        DependencyDown: Redis or Kafka does not answer; nothing was changed.
        Conflict: a training, an import or a maintenance is under way; or a file that a killed
            writer left is too young to be removed: run it again later.
    """
    key = key_of("user", user)
    online, held = Online(settings, key), kafka.held_until(settings)
    with _alone(settings):
        lake.create_all(settings)
        if not _known(session, settings, user, online):
            raise NothingToDo(
                f"nothing is known of a user {user!r}",
                where=str(settings.home),
                next_step="Is the id written as in the events?",
            )
        forgotten.add(settings, key, now_ms=round(datetime.now(UTC).timestamp() * 1000))
        found = _forget_in_lake(session, settings, user)
        rows, note = online.forget()
        scratch = files.remove(files.scratch(settings))
    pattern = words.in_logs(user, key)
    mentions = {
        path: files.blot_out(path, pattern) for path in files.named_in_logs(settings, pattern)
    }
    places = [
        *(_of_table(each) for each in found),
        Place(place="online store", found=rows, note=note),
        Place(place="scratch", found=scratch),
        Place(place="logs", found=sum(mentions.values()), note="overwritten with x"),
        *_of_kafka(held),
    ]
    if left := [path for each in found for path in each.left]:
        raise Conflict(
            "files that a killed writer may have left still hold the user",
            found=", ".join(left),
            next_step=f"All else is done. Run it again after {tables.ORPHAN_AGE}.",
        )
    return places


def _forget_in_lake(session: SparkSession, settings: Settings, user: str) -> list[tables.Found]:
    """All tables; and which days features need not build again for it."""
    digests = _digests(session, settings, key_of("user", user))
    found = []
    for trace in tables.traces(user):
        with people.status(trace.table.name):
            found.append(tables.forget(session, settings, trace))
    # Rows of the other users are as a build would make them now. Counts of items are not: they
    # count the user until the next build, which finds those days changed.
    inputs.taken_out(settings, digests, _OF_USERS)
    return found


def _known(session: SparkSession, settings: Settings, user: str, online: Online) -> bool:
    key = key_of("user", user)
    with forgotten.consulted(settings) as known:
        if key in known.until_ms:
            return True
    return bool(online.rows()) or any(
        each.rows or each.tags
        for trace in tables.traces(user)
        for each in [tables.look(session, settings, trace)]
    )


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Nobody else copies, imports, builds or maintains meanwhile."""
    with (
        forgotten.nobody_copies(settings),
        imports.alone(settings),
        care.alone(settings),
        build.alone(settings),
    ):
        yield


def _digests(session: SparkSession, settings: Settings, user_key: int) -> Digests:
    """Of what features read of the user, day by day."""
    try:
        clicks = dataset.load(settings).click_actions
    except NothingToDo:  # no data set: no features either
        return {}
    days = inputs.files_of(settings, clicks)
    if not days:
        return {}
    rows = history.read(
        session, settings, click_actions=clicks, first=min(days), last=max(days), user_key=user_key
    )
    return inputs.digests_of(rows)


def _of_table(found: tables.Found) -> Place:
    tags = f"also in what is tagged {', '.join(found.tags)}" if found.tags else ""
    return Place(place=f"lake: {found.table}", found=found.rows, note=tags)


def _of_kafka(held: dict[str, datetime | None]) -> Iterator[Place]:
    for topic, until in held.items():
        kept = (
            f"until {until:%Y-%m-%d %H:%M} UTC" if until else "for ever: its retention is unbounded"
        )
        yield Place(
            place=f"topic: {topic}", found=0, note=f"may hold records {kept}; none is taken in"
        )


def _confirm(user: str) -> None:
    if not sys.stdin.isatty():
        raise InputError("this cannot be undone", expected="--yes, or --dry-run to look first")
    question = f"Remove {user!r} from lake, online store, scratch and logs? This cannot be undone."
    typer.confirm(question, abort=True, err=True)


if __name__ == "__main__":
    run(app)
