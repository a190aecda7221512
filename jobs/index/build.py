"""Bundle in, live index out: a fresh collection, checked, then the alias and the registry.

    items_<bundle>     searched by serving, by name
    alias `items`      searched by rankers; moves once the check has passed
    draft_items_…      under construction, searched by nobody

A draft holds the bundle's items and those that the lake has otherwise by now; what comes while it
is built reaches the live collection, and the draft just before it goes live (`pagoda.updates`).

Run again, a bundle whose collection is there already is only checked and promoted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import numpy.typing as npt
import structlog
import typer
from filelock import FileLock, Timeout
from pymilvus import MilvusClient
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jobs.index import check, collection
from pagoda import faults, index_report, registry, updates
from pagoda import settings as settings_module
from pagoda.ann import Searcher
from pagoda.bundle import Bundle, Request
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import CheckFailed, Conflict, InputError
from pagoda.features import USER_INTRADAY
from pagoda.index import (
    Collection,
    aliased,
    collection_of,
    describe,
    description,
    fingerprint,
    load,
    milvus,
)
from pagoda.index_report import IndexReport
from pagoda.models.behaviour import Rows
from pagoda.release import make_live
from pagoda.settings import Settings

log = structlog.get_logger()
app = typer.Typer(add_completion=False, help="Build and check a collection, then swap the alias.")
_SAMPLE_REQUESTS = 32


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    bundle: Annotated[str | None, typer.Option(help="Which bundle; default the newest.")] = None,
    promote: Annotated[
        bool, typer.Option(help="Make it live once checked; otherwise only build and check.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Build a bundle's collection in Milvus, check it beside exact search, make it live."""
    if context.invoked_subcommand:
        return
    settings = settings_module.load()
    with shown() as progress:
        report = build(
            settings, bundle or registry.latest(settings), promote=promote, progress=progress
        )
    show(report, as_json=as_json)


def build(
    settings: Settings, name: str, *, promote: bool, progress: collection.Progress
) -> IndexReport:
    """Build (unless it is there), check, and with `promote` make live.

    Raises: BundleRefused; DependencyDown; CheckFailed if the check found too little, which leaves
        what is live as it was; Conflict if another build is running.
    """
    bundle = Bundle.load(registry.require(settings, name))
    with _alone(settings), milvus(settings) as client:
        for manifest in registry.bundles(settings):
            if collection.drop_draft(client, manifest.collection):
                log.info("interrupted_build_dropped", collection=manifest.collection)
        holds = updates.since_training(settings, bundle)
        items, vectors_ND = updates.merged(bundle, holds)
        index = collection.choose_index(
            rows=items.num_rows, flat_max_items=settings.milvus.flat_max_items
        )
        standing = _standing(client, bundle, index)
        if standing:
            report = _check_standing(settings, standing, bundle, progress)
        else:
            draft = collection.build_draft(
                client,
                name=bundle.collection,
                described=_described(bundle),
                items=items,
                vectors_ND=vectors_ND,
                index=index,
                progress=progress,
            )
            faults.point("index.built")
            report = _check(settings, draft, bundle, holds, progress)
        index_report.save(settings, report)
        faults.point("index.checked")
        if not report.passed:
            collection.drop_draft(client, bundle.collection)
            raise _failed(report)
        with updates.alone(settings):
            if not standing:
                updates.catch_up(settings, client, bundle, draft, holds=holds)
                _rename(client, draft.name, bundle.collection)
                faults.point("index.renamed")
            if promote:
                make_live(settings, client, bundle)
        if promote:
            faults.point("index.released")
            _drop_old(settings, client)
    return report


def recheck(settings: Settings, name: str, *, progress: collection.Progress) -> IndexReport:
    """Check a bundle's collection as it stands, and keep the report.

    Raises: InputError if there is none; CheckFailed if the check found too little.
    """
    bundle = Bundle.load(registry.require(settings, name))
    with milvus(settings) as client:
        found = describe(client, bundle.collection)
        if found is None or found.fingerprint != fingerprint(bundle.items, bundle.item_vectors):
            raise InputError(
                f"Milvus has no collection of the bundle {name!r}",
                expected=bundle.collection,
                next_step=f"Build it: `pagoda index --bundle {name}`.",
            )
        report = _check_standing(settings, found, bundle, progress)
    index_report.save(settings, report)
    if not report.passed:
        raise _failed(report)
    return report


def show(report: IndexReport, *, as_json: bool) -> None:
    """The report for people or programs."""
    if as_json:
        emit_json(report.model_dump(mode="json") | {"worst_recall": report.worst_recall})
        return
    emit_table(
        (
            {
                "filter": case.filter if len(case.filter) <= 48 else f"{case.filter[:47]}…",
                "share": f"{case.share:.2%}",
                "items": case.matches,
                f"recall@{report.k}": f"{case.recall:.3f}",
                "violations": case.violations,
                "p50 ms": f"{case.p50_ms:.1f}",
                "p98 ms": f"{case.p98_ms:.1f}",
            }
            for case in report.cases
        ),
        title=f"{report.collection}: {report.rows} items, {report.index_type}, "
        f"{report.queries} queries beside exact search",
    )


def _standing(
    client: MilvusClient, bundle: Bundle, index: collection.IndexSpec
) -> Collection | None:
    """The bundle's collection from an earlier run, if it is what would be built now."""
    found = describe(client, bundle.collection)
    if (
        found is None
        or found.index_type != index.kind
        or found.fingerprint != fingerprint(bundle.items, bundle.item_vectors)
    ):
        return None
    if not found.loaded:
        load(client, found.name)
    log.info("collection_is_there_already", collection=bundle.collection)
    return found


def _described(bundle: Bundle) -> str:
    built_from = fingerprint(bundle.items, bundle.item_vectors)
    return description(bundle=bundle.name, fingerprint=built_from)


def _check_standing(
    settings: Settings, standing: Collection, bundle: Bundle, progress: collection.Progress
) -> IndexReport:
    """Check what may be live; if items change meanwhile, once more while none may."""
    before = updates.stamp(settings, bundle.name)
    report = _check(settings, standing, bundle, updates.read(settings, bundle), progress)
    if updates.stamp(settings, bundle.name) == before:
        return report
    with updates.alone(settings):
        return _check(settings, standing, bundle, updates.read(settings, bundle), progress)


def _check(
    settings: Settings,
    candidate: Collection,
    bundle: Bundle,
    holds: updates.Updates,
    progress: collection.Progress,
) -> IndexReport:
    """Check a collection that holds these updates beside the bundle's own items."""
    items, vectors_ND = updates.merged(bundle, holds)
    searcher = Searcher(settings)
    try:
        return check.check(
            searcher,
            candidate,
            bundle=bundle.name,
            live_name=bundle.collection,
            items=items,
            vectors_ND=vectors_ND,
            queries_QD=check.query_vectors(bundle.item_vectors, request_vectors(bundle)),
            min_recall=settings.milvus.min_recall,
            progress=progress,
        )
    finally:
        searcher.close()


def request_vectors(bundle: Bundle) -> npt.NDArray[np.float32]:
    """The user tower's vectors for searches by strangers, in the words of the catalogue.

    Without queries strangers are all alike: there they have clicked an item each.
    """
    rng = np.random.default_rng(2)
    items = bundle.items.take(rng.integers(bundle.items.num_rows, size=_SAMPLE_REQUESTS))
    at_ms = round(bundle.manifest.created_at.timestamp() * 1000)
    reads = bundle.manifest.reads_queries
    return bundle.embed(
        [
            Request(query=item["title"] or "", at_ms=at_ms, rows={})
            if reads
            else Request(query="", at_ms=at_ms, rows=_clicked(item["item_key"], at_ms))
            for item in items.select(["item_key", "title"]).to_pylist()
        ]
    )


def _clicked(item_key: int, at_ms: int) -> Rows:
    click = {"click_ts": [at_ms - 1], "click_events": [0], "click_items": [item_key]}
    return {USER_INTRADAY.name: click}


def _rename(client: MilvusClient, draft: str, name: str) -> None:
    if client.has_collection(name):  # of the same name and another content: a bundle made anew
        client.drop_collection(name)
    client.rename_collection(draft, name)


def _drop_old(settings: Settings, client: MilvusClient) -> None:
    """Keep the live collection and those one can go back to; drop this registry's others.

    Collections that this registry never knew are somebody else's. Milvus 2.3.5 drops a collection
    together with its alias without a word, so the alias is asked first.
    """
    pointer = registry.pointer(settings)
    going_back = [pointer.current, *reversed(pointer.earlier)]
    waiting = registry.latest(settings)  # perhaps built with --no-promote
    kept = {waiting, *going_back[: settings.milvus.keep_collections]}
    known = {manifest.name for manifest in registry.bundles(settings)}
    known |= {move.bundle for move in pointer.history}
    live = aliased(client, settings.milvus.alias)
    for name in sorted(collection_of(bundle) for bundle in known - kept):
        if name != live and client.has_collection(name):
            client.drop_collection(name)
            log.info("old_collection_dropped", collection=name)


def _failed(report: IndexReport) -> CheckFailed:
    bad = [
        f"{case.filter}: recall {case.recall:.3f}, {case.violations} violations"
        for case in report.cases
        if case.recall < report.min_recall or case.violations
    ]
    return CheckFailed(
        "the index did not pass its check",
        where=report.collection,
        expected=f"recall of {report.min_recall} at least and no result outside a filter",
        found="; ".join(bad),
        next_step="Nothing went live by this. See index.json beside the bundle.",
    )


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    try:
        with FileLock(settings.run / "index.lock", timeout=1):
            yield
    except Timeout as error:
        raise Conflict(
            "another build of the index is running", where=str(settings.run / "index.lock")
        ) from error


@contextmanager
def shown() -> Iterator[collection.Progress]:
    """Progress as bars on stderr."""
    bar = Progress(
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=people,
    )
    tasks: dict[str, int] = {}

    def report(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what)
        bar.update(tasks[what], completed=done, total=of)  # type: ignore[arg-type]

    with bar:
        yield report


if __name__ == "__main__":
    run(app)
