"""`pagoda models`: the bundles there are, and which one is live."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from pagoda import index_report, registry, release
from pagoda import settings as settings_module
from pagoda.bundle import Manifest, Metric
from pagoda.console import emit_json, emit_table, people
from pagoda.metric_table import first_rows, table
from pagoda.settings import Settings

app = typer.Typer(
    add_completion=False,
    help="List bundles, promote one, go back, remove some.",
    no_args_is_help=True,
)
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command("list")
def list_bundles(as_json: AsJson = False) -> None:
    """Every bundle, newest last: what it was trained on, its metrics beside the baselines."""
    settings = settings_module.load()
    pointer = registry.pointer(settings)
    found = [_described(settings, manifest, pointer) for manifest in registry.bundles(settings)]
    if as_json:
        emit_json(found)
        return
    if not found:
        people.print("no bundle yet; train one: `pagoda train demo`")
        return
    emit_table(
        (
            {
                "": {"current": "●", "earlier": "○"}.get(each["state"], ""),
                "bundle": each["name"],
                "recipe": " ".join([each["recipe"], *each["changed"]]),
                "created": f"{each['created_at']:%Y-%m-%d %H:%M}",
                "items": each["items"],
                "index": _index(each["index"]),
            }
            for each in found
        ),
        title="● live   ○ to go back to",
    )
    for each in found:
        if each["metrics"]:
            metrics = [Metric.model_validate(metric) for metric in each["metrics"]]
            emit_table(
                table(first_rows(metrics)),
                title=f"{each['name']}, {metrics[0].week} week: {each['query_protocol']}",
            )


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="The bundle's name.")], as_json: AsJson = False
) -> None:
    """Make a bundle live: Milvus's alias and the registry's pointer."""
    settings = settings_module.load()
    release.release(settings, name)
    _say(settings, as_json)


@app.command()
def rollback(as_json: AsJson = False) -> None:
    """Make the bundle before the current one live again."""
    settings = settings_module.load()
    release.roll_back(settings)
    _say(settings, as_json)


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of bundles.")],
    as_json: AsJson = False,
) -> None:
    """Delete bundles with their collections; the lake lets go of what they were trained on.

    The live one is refused.
    """
    settings = settings_module.load()
    release.require_removable(settings, names)
    removed = []
    for name in dict.fromkeys(names):
        each = release.remove(settings, name)
        removed.append(asdict(each))
        parts = [
            *(["folder"] if each.folder else []),
            *(["collection"] if each.collection else []),
            *(f"tag on {table}" for table in each.unpinned),
        ]
        people.print(f"{each.bundle}: removed {', '.join(parts)}", highlight=False)
    if as_json:
        emit_json(removed)


def _say(settings: Settings, as_json: bool) -> None:
    pointer = registry.pointer(settings)
    if as_json:
        emit_json(pointer.model_dump(mode="json"))
        return
    people.print(f"live: {pointer.current}", highlight=False)
    if pointer.earlier:
        people.print(f"to go back to: {pointer.earlier[-1]}", highlight=False)


def _described(settings: Settings, manifest: Manifest, pointer: registry.Pointer) -> dict[str, Any]:
    report = index_report.load(settings, manifest.name)
    state = "current" if manifest.name == pointer.current else None
    if manifest.name in pointer.earlier:
        state = "earlier"
    return {
        "name": manifest.name,
        "state": state,
        "recipe": manifest.recipe,
        "changed": manifest.changed,
        "created_at": manifest.created_at,
        "items": int(manifest.counts.get("items", 0)),
        "query_protocol": manifest.dataset.get("query_protocol", ""),
        "metrics": [metric.model_dump() for metric in manifest.metrics],
        "index": report
        and {
            "collection": report.collection,
            "type": report.index_type,
            "rows": report.rows,
            "passed": report.passed,
            "worst_recall": report.worst_recall,
        },
    }


def _index(index: dict[str, Any] | None) -> str:
    if index is None:
        return "not built"
    verdict = f"recall {index['worst_recall']:.3f}" if index["passed"] else "did not pass"
    return f"{index['type']}, {verdict}"
