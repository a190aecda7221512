"""Bring the live collection up to date with the lake's items: the small index update.

    topic `item-updates` ──landing──► lake `items` ──► live collection, and `updates.arrow`

Started by every burst of messages (`dags/item_updates.py`), it waits until what Kafka holds by then
has landed. Run again it changes nothing.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from jobs.checks.positions import Positions
from pagoda import registry, topics, updates
from pagoda import settings as settings_module
from pagoda.bundle import Bundle
from pagoda.bursts import COVERED_S
from pagoda.console import emit_json, people, run
from pagoda.errors import CheckFailed, DependencyDown
from pagoda.index import milvus, standing
from pagoda.settings import Settings

app = typer.Typer(
    add_completion=False, help="Bring the live collection up to date with the lake's items."
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an update did.

    Attributes:
        bundle: the live one; None if there is none yet: its first build takes all items.
        new, changed: items written now.
        beyond: items that the collection holds otherwise than the bundle's table, or besides it.
    """

    bundle: str | None
    new: int = 0
    changed: int = 0
    beyond: int = 0
    seconds: float = 0.0


@app.command()
def main(
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait", min=0, help="Seconds to wait for landing at most; 0: take what the lake has."
        ),
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Write new and changed items of the lake into the live collection."""
    started = time.monotonic()
    settings = settings_module.load()
    name = registry.current(settings)
    bundle = Bundle.load(registry.require(settings, name)) if name else None  # while items land
    late = None
    if bundle and wait_s:
        time.sleep(max(0.0, started + COVERED_S - time.monotonic()))
        late = _wait_for_landing(settings, wait_s)
    report = update(settings, loaded=bundle)
    if as_json:
        emit_json(asdict(report))
    elif report.bundle is None:
        people.print("nothing is live yet: the first `pagoda index` takes all items")
    else:
        people.print(
            f"{report.new} new and {report.changed} changed items into the collection of "
            f"[bold]{report.bundle}[/] in {report.seconds:.1f} s",
            highlight=False,
        )
    if late:
        raise DependencyDown("landing", f"{late.what}: {late.found}", next_step=late.next_step)


def update(settings: Settings, *, loaded: Bundle | None = None) -> Report:
    """Write what the live collection lacks.

    Args:
        loaded: a bundle that may be the live one, which is loaded otherwise.
    Raises: InputError if the live bundle has no collection; DependencyDown("milvus"); Conflict if
        somebody else held the lock for long.
    """
    started = time.monotonic()
    with updates.alone(settings):
        name = registry.current(settings)
        if name is None:
            return Report(bundle=None)
        bundle = loaded
        if bundle is None or bundle.name != name:
            bundle = Bundle.load(registry.require(settings, name))
        with milvus(settings) as client:
            done = updates.catch_up(settings, client, bundle, standing(client, name))
    return Report(
        bundle=name,
        new=done.new,
        changed=done.changed,
        beyond=len(done.held),
        seconds=round(time.monotonic() - started, 3),
    )


def _wait_for_landing(settings: Settings, wait_s: float) -> CheckFailed | None:
    """Until the lake holds all item updates that Kafka holds now; the error if it does not."""
    with topics.admin(settings) as admin:
        positions = Positions(settings, admin, [settings.kafka.items_topic])
        try:
            positions.wait_landed(positions.ends(), wait_s)
        except CheckFailed as error:
            return error
    return None


if __name__ == "__main__":
    run(app)
