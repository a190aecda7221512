"""`pagoda demo`: the whole road on real purchases, from nothing to a search that a click moves.

Each step knows when its output is there already, so a rerun resumes where the last one ended,
however it ended: DAG runs that go on are followed, failed ones are started again from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pagoda import dataset, doctor, live_event, registry, servers
from pagoda import settings as settings_module
from pagoda.airflow import Airflow, Run, follow
from pagoda.bundle import Manifest
from pagoda.cli.demo_report import summary, tell
from pagoda.cli.run import show
from pagoda.cli.servers import Progress
from pagoda.console import emit_json, people, run
from pagoda.errors import MachineError
from pagoda.index import describe, milvus
from pagoda.settings import Settings

app = typer.Typer(add_completion=False)
_DAGS = ("ingest", "features", "train", "index")
_BEFORE_THE_ROAD = ("kafka", "redis", "milvus", "airflow")

Json = dict[str, Any]


@app.command()
def main(
    households: Annotated[
        int | None, typer.Option(min=1, help="Import only so many; default all 2,469.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="What to train.")] = "demo",
    rebuild: Annotated[
        bool, typer.Option(help="Run the whole road again, whatever is there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="What was built and shown, as JSON.")
    ] = False,
) -> None:
    """Build everything, then show a search before and after a live event."""
    clock = _Clock()
    with clock.step("machine"):
        _examine()
    with clock.step("servers"), Progress() as report:
        settings = servers.up(settings_module.load(), _BEFORE_THE_ROAD, report=report)
    with clock.step("import, features, training, index"), Airflow(settings) as airflow:
        params = {"dataset": "completejourney", "households": households, "recipe": recipe}
        _walk(airflow, settings, params, rebuild=rebuild)
    with clock.step("streams and search"), Progress() as report:
        settings = servers.up(settings, report=report)
    with clock.step("a live event"):
        shown = live_event.show(settings)
    if as_json:
        emit_json(summary(settings, shown) | {"seconds": clock.seconds})
        return
    tell(settings, shown)
    people.print(f"\n{sum(clock.seconds.values()):.0f} s in all. To stop the servers: make down")


class _Clock:
    """Says when each step begins and how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        people.print(f"[bold]· {name}[/]")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        so_far = sum(self.seconds.values())
        people.print(f"  {self.seconds[name]:.0f} s, {so_far:.0f} s so far", style="dim")


def _examine() -> None:
    started_next = {server.name for server in servers.SERVERS}
    findings = [each for each in doctor.examine() if each.name not in started_next]
    for finding in findings:
        if finding.state == "warn":
            people.print(f"  {finding.name}: {finding.found}. {finding.next_step or ''}")
    failed = [finding for finding in findings if finding.state == "fail"]
    if failed:
        raise MachineError(
            "; ".join(f"{each.name}: {each.found}. {each.next_step or ''}" for each in failed)
        )


# The road ----------------------------------------------------------------------------------------


def _walk(airflow: Airflow, settings: Settings, asked: Json, *, rebuild: bool) -> None:
    """Run the DAGs whose output is missing, in order; each starts the next by its asset."""
    if rebuild:
        first: Run | None = airflow.trigger("ingest", asked)
    else:
        first = _first_missing(airflow, settings, asked) or _repair(airflow, settings, asked)
    if first is None:
        people.print("  everything is there already")
        return
    show(follow(airflow, first), airflow)


def _first_missing(airflow: Airflow, settings: Settings, asked: Json) -> Run | None:
    """The run to follow: one under way, or a new one of the first DAG that has not succeeded."""
    after = None
    for dag in _DAGS:
        found = [
            each
            for each in airflow.runs(dag)
            if (_imports(each, asked) if after is None else _follows(each, after))
        ]
        newest = found[0] if found else None
        if dag == "ingest" and not dataset.path(settings).exists():
            newest = None
        if newest is None or newest.state == "failed":
            return _start(airflow, dag, asked)
        if not newest.finished:
            return newest
        after = newest
    return None


def _start(airflow: Airflow, dag: str, asked: Json) -> Run:
    """A run of `dag`; for features one of ingest, whose asset says which days they need."""
    if dag == "train":
        return airflow.trigger("train", {"recipe": asked["recipe"]})
    if dag == "index":
        return airflow.trigger("index", {})
    return airflow.trigger("ingest", asked)


def _imports(each: Run, asked: Json) -> bool:
    wanted = ("dataset", "households")
    return [each.conf.get(name) for name in wanted] == [asked[name] for name in wanted]


def _follows(each: Run, before: Run) -> bool:
    """Whether a run came after `before` and covers what it produced: a daily run does not."""
    if each.kind in ("scheduled", "backfill") or not (each.created_at and before.started_at):
        return False
    return each.created_at >= before.started_at


def _repair(airflow: Airflow, settings: Settings, asked: Json) -> Run | None:
    """After a walked road: what brings the recipe's bundle live, should it not be."""
    recipe, current = asked["recipe"], _current(settings)
    if current is not None and current.recipe == recipe and _is_live(settings, current):
        return None
    of_recipe = [
        each.name
        for each in registry.bundles(settings)
        if each.recipe == recipe and not each.changed
    ]
    if of_recipe:
        return airflow.trigger("index", {"bundle": of_recipe[-1]})
    return airflow.trigger("ingest", asked)


def _current(settings: Settings) -> Manifest | None:
    name = registry.current(settings)
    known = {manifest.name: manifest for manifest in registry.bundles(settings)}
    return known.get(name) if name else None


def _is_live(settings: Settings, manifest: Manifest) -> bool:
    with milvus(settings) as client:
        found = describe(client, manifest.collection)
    return found is not None and found.loaded


if __name__ == "__main__":
    run(app)
