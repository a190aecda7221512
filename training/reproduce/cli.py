"""`pagoda reproduce mgdspr`: the claims of MGDSPR's paper, run anew; one HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from pagoda import settings as settings_module
from pagoda import whole
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import InputError
from training import devices
from training.reproduce import findings, homes, report, tasks
from training.reproduce.claims import Answer
from training.reproduce.plan import SIZES, Part, chosen

app = typer.Typer(
    add_completion=False, help="A paper's claims, run anew; one HTML report.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """One command a paper."""


@app.command()
def mgdspr(
    size: Annotated[
        str,
        typer.Option(help="full, or small: minutes that show that it runs, and nothing else."),
    ] = "full",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this part: ablations, noise (or 'noise 0.1'), final; repeatable."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Models of what the paper's claims compare; of the rest two at most. Default 3, "
            "small 2.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Tasks at a time; default as many as cores and memory allow."),
    ] = None,
    show_plan: Annotated[
        bool, typer.Option("--plan", help="Only show the runs, what is done, and how long.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """MGDSPR, α-DNN and all ablations, on purchases and on simulated shoppers.

    Everything lies in $PAGODA_HOME/reproduce. Finished runs are kept: the same command goes on.
    """
    settings = settings_module.load()
    if size not in SIZES:
        raise InputError(f"no size {size!r}", where="--size", expected=" or ".join(SIZES))
    asked, count = SIZES[size], seeds or SIZES[size].seeds
    parts = chosen(asked, only or ())
    folder = settings.home / "reproduce" / size
    if show_plan:
        emit_table(planned(folder, parts, count), title=f"{size}, {count} seeds", as_json=as_json)
        return
    devices.chosen(settings)  # before the data sets are made
    homes_of = {each.name: homes.make(settings, folder / "homes", asked, each) for each in parts}
    at_once = processes or tasks.at_once()
    jobs = tasks.jobs_of(
        tasks.tasks_of(folder / "runs", parts, count),
        homes_of,
        folder,
        size=size,
        seeds=count,
        processes=at_once,
        device=settings.training.device,
    )
    tasks.side_by_side(jobs, folder / "logs", processes=at_once)
    told = report.contents(findings.read_all(folder / "runs", asked.parts, count))
    page, figures = write_report(folder, told, size=size, seeds=count)
    if as_json:
        emit_json({"report": str(page), "figures": str(figures), "claims": claimed(told)})
        return
    emit_table(claimed(told), title="What the paper says, and what was found")
    people.print(f"report: {page}\nits figures: {figures}", soft_wrap=True)


def write_report(
    folder: Path, told: report.Contents, *, size: str, seeds: int
) -> tuple[Path, Path]:
    """`report.html`, and its figures as `report.json`; each whole or not at all."""
    page = report.render(told, size=size, seeds=seeds)
    figures = orjson.dumps(report.figures(told, size=size, seeds=seeds))
    return whole.write(folder / "report.html", page), whole.write(folder / "report.json", figures)


def claimed(told: report.Contents) -> list[dict[str, str]]:
    """A line for each claim: what each part says of it."""
    return [
        {
            "the paper says": each.claim.says,
            "measure": each.claim.metric.replace("good@", "share on the wanted shelf@"),
            **{part.part.name: _told(each.answers.get(part.part.name)) for part in told.parts},
        }
        for each in told.asked
    ]


def _told(one: Answer | None) -> str:
    if one is None:
        return "–"
    return f"{report.signed(one.difference.mean)} {one.verdict or 'not judged'}"


def planned(folder: Path, parts: tuple[Part, ...], seeds: int) -> list[dict[str, Any]]:
    """A line for each part: its runs, how many are done, and how long the others may take."""
    rows = []
    for part in parts:
        of_part = tasks.tasks_of(folder / "runs", [part], seeds)
        runs = sum(len(each.runs) for each in of_part)
        left = sum(len(each.missing) for each in of_part)
        rows.append(
            {
                "part": part.name,
                "data": part.home,
                "judged on": f"{part.week} week",
                "variants": len(part.variants),
                "runs": runs,
                "done": runs - left,
                "core minutes left": round(sum(each.seconds for each in of_part) / 60),
            }
        )
    return rows


if __name__ == "__main__":
    run(app)
