"""`pagoda check`: parity, contracts, index. Exits non-zero when something is wrong."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pagoda import registry, spark
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import CheckFailed, NothingToDo
from pagoda.settings import load

if TYPE_CHECKING:
    from jobs.checks.parity import Difference

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Is what is served right?")
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.callback()
def main() -> None:
    """Is what is served right?"""


@app.command()
def parity(
    users: Annotated[int, typer.Option(min=1, help="How many users to compare.")] = 100,
    as_json: Json = False,
) -> None:
    """Online features equal Feast's historical ones, element by element, for sampled users."""
    from jobs.checks.parity import check  # imports Spark and Feast: seconds

    settings = load()
    with spark.session(settings, "parity") as session:
        report = check(session, settings, users=users, say=people.print)
    if as_json:
        emit_json(report.as_json())
    else:
        summary = {
            "users compared": report.compared,
            "elements": report.elements,
            "differences": len(report.different),
            "moving": len(report.moving),
            "late": len(report.late),
            "robots": len(report.robots),
            "seconds": report.seconds,
        }
        emit_table([summary], title="Parity")
        if report.different:
            emit_table([_flat(each) for each in report.different], title="Differences")
    if not report.equal:
        raise CheckFailed(
            "online and historical features differ",
            found=f"{len(report.different)} windows of {report.compared} users",
            next_step="Both sides are shown above. Was the last day materialised "
            "(`pagoda features materialise`)?",
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


def _flat(difference: Difference) -> dict[str, str]:
    shown = asdict(difference)
    return {
        key: "\n".join(value) if isinstance(value, list) else value for key, value in shown.items()
    }


if __name__ == "__main__":
    run(app)
