"""`pagoda run`: trigger Airflow's DAGs and follow them, with all that their assets start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Annotated, Any

import orjson
import typer
from rich.live import Live
from rich.table import Table

from pagoda import settings as settings_module
from pagoda.airflow import Airflow, Progress, Task, follow
from pagoda.console import emit_json, people, run
from pagoda.errors import InputError, PagodaError

app = typer.Typer(add_completion=False)

# Which parameters each DAG takes from the options below.
_DAYS = ("from", "to")
_TAKES = {
    "ingest": ("recipe",),
    "features": (*_DAYS, "recipe"),
    "train": ("recipe",),
    "index": (),
    "item_updates": (),
    "parity": _DAYS,
    "quality": (),
}
_LOG_TAIL = 30
_COLOURS = {
    "success": "green",
    "failed": "bold red",
    "running": "cyan",
    "up_for_retry": "yellow",
    "upstream_failed": "red",
    "skipped": "magenta",
}


@app.command()
def main(
    dags: Annotated[
        list[str] | None,
        typer.Argument(
            help="DAGs in order: ingest, features, train, index; parity, quality. "
            "One that an earlier one's assets have started is not started again.",
            show_default="features",
        ),
    ] = None,
    day: Annotated[str | None, typer.Option(help="One UTC day of features.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="First UTC day of features: one job for a range.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Last UTC day of features, inclusive.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe for training, also where it follows by assets.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the first DAG, e.g. households=120; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
) -> None:
    """Trigger DAGs and follow them to the end; their assets start the DAGs after them."""
    names = dags or ["features"]
    options = {"from": day or from_, "to": day or to, "recipe": recipe}
    given = {name: value for name, value in options.items() if value is not None}
    _check(names, given, day_and_range=bool(day and (from_ or to)))
    settings = settings_module.load()
    done: list[Progress] = []
    with Airflow(settings) as airflow:
        for number, name in enumerate(names):
            if any(progress.run.dag == name for progress in done):
                continue
            params = {key: value for key, value in given.items() if key in _TAKES[name]}
            if number == 0:
                params |= _params(param or [])
            done += watch(airflow, name, params)
    if as_json:
        emit_json([_as_dict(progress) for progress in done])


def watch(airflow: Airflow, dag: str, params: dict[str, Any]) -> list[Progress]:
    """Trigger `dag`, show the chain's progress on stderr, return its runs.

    Raises: PagodaError, after the failing task's last lines, if a run fails.
    """
    return show(follow(airflow, airflow.trigger(dag, params)), airflow)


def show(looks: Iterable[list[Progress]], airflow: Airflow) -> list[Progress]:
    """Show a chain's progress until its end; raises like `watch`."""
    chain: list[Progress] = []
    try:
        with _display() as update:
            for chain in looks:
                update(chain)
    except KeyboardInterrupt:
        people.print("The runs go on in Airflow; this only ended the following of them.")
        raise
    for progress in chain:
        if progress.run.state == "failed":
            raise _failure(airflow, progress)
    return chain


def _check(names: list[str], given: dict[str, str], *, day_and_range: bool) -> None:
    problems = [
        f"no DAG {name!r}; there are {', '.join(_TAKES)}" for name in names if name not in _TAKES
    ]
    if day_and_range:
        problems.append("--day is one day, --from and --to are a range: give one or the other")
    takers = {option for name in names for option in _TAKES.get(name, ())}
    problems += [f"{name}: no DAG of these takes it" for name in sorted(set(given) - takers)]
    problems += [p for name in _DAYS if name in given for p in _bad_day(name, given[name])]
    if not problems and given.get("from", "") > given.get("to", "9"):
        problems.append(f"the range ends ({given['to']}) before it begins ({given['from']})")
    if problems:
        raise InputError("the run cannot be started", problems=problems)


def _bad_day(name: str, text: str) -> Iterator[str]:
    try:
        date.fromisoformat(text)
    except ValueError:
        yield f"{name}: {text!r} is no day; write it as 2026-11-22"


def _params(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value that is JSON (120, true) is taken as such."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise InputError("--param takes NAME=VALUE", problems=wrong)
    return {name: _value(text) for name, _, text in (pair.partition("=") for pair in pairs)}


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


@contextmanager
def _display() -> Iterator[Any]:
    """A live table on a terminal, a line for each change elsewhere."""
    if people.is_terminal:
        with Live(console=people, refresh_per_second=4) as live:
            yield lambda chain: live.update(_table(chain))
        return
    seen: dict[tuple[str, str], str] = {}

    def lines(chain: list[Progress]) -> None:
        for progress in chain:
            states = [(task.task_id, task.state or "waiting") for task in progress.tasks]
            for name, state in [*states, ("", progress.run.state)]:
                key = (progress.run.run_id, name)
                if seen.get(key) != state:
                    seen[key] = state
                    what = f"{progress.run.dag}.{name}" if name else progress.run.dag
                    people.print(f"{datetime.now(UTC):%H:%M:%S} {what} {state}", highlight=False)

    yield lines


def _table(chain: list[Progress]) -> Table:
    table = Table(header_style="bold")
    for column in ("DAG", "task", "state"):
        table.add_column(column)
    table.add_column("seconds", justify="right")
    for progress in chain:
        table.add_row(progress.run.dag, "", _coloured(progress.run.state), "")
        for task in progress.tasks:
            attempt = f" (try {task.try_number})" if task.try_number > 1 else ""
            state = _coloured(task.state or "waiting") + attempt
            table.add_row("", task.task_id, state, _seconds(task))
    return table


def _coloured(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/]" if colour else state


def _seconds(task: Task) -> str:
    if task.started_at is None:
        return ""
    return f"{((task.ended_at or datetime.now(UTC)) - task.started_at).total_seconds():.0f}"


def _failure(airflow: Airflow, progress: Progress) -> PagodaError:
    failed = next((task for task in progress.tasks if task.state == "failed"), None)
    if failed is None:
        return PagodaError(f"the DAG {progress.run.dag} failed", where=progress.run.run_id)
    people.print(f"[bold]{progress.run.dag}.{failed.task_id}[/], the last lines of its log:")
    for line in airflow.log(progress.run, failed)[-_LOG_TAIL:]:
        people.print(f"  {line}", markup=False, highlight=False)
    return PagodaError(
        f"the DAG {progress.run.dag} failed",
        where=f"task {failed.task_id}, try {failed.try_number}",
        next_step="Mend the cause and run it again; the Airflow UI shows the whole log.",
    )


def _as_dict(progress: Progress) -> dict[str, Any]:
    return {
        "dag": progress.run.dag,
        "run_id": progress.run.run_id,
        "state": progress.run.state,
        "seconds": progress.run.seconds,
        "tasks": [
            {"task": task.task_id, "state": task.state, "tries": task.try_number}
            for task in progress.tasks
        ],
    }


if __name__ == "__main__":
    run(app)
