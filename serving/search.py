"""One search, step by step: features, tower, terms, index, items; each step timed.

Blocking and thread-safe: requests run it on worker threads, each on the bundle it began with.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pagoda.ann import MAX_K, Hits, Searcher
from pagoda.bundle import Request
from pagoda.errors import InputError
from pagoda.filters import expression
from pagoda.ids import key_of
from pagoda.models.behaviour import windows_of
from pagoda.online import StampedRow
from pagoda.settings import Settings
from pagoda.shelf import Mask, Shelf
from pagoda.understanding import Control, control, satisfying
from pagoda.understanding import Term as FoundTerm
from pagoda.windows import Windows
from serving.live import Live
from serving.schemas import (
    Asked,
    EmbedAnswer,
    EmbedRequest,
    Explanation,
    Relevance,
    Result,
    SearchAnswer,
    SearchRequest,
    Seen,
    Sequences,
    Term,
)

# A post-filter needs more hits than results: the paper loses 30 % to it, a wrong brand more.
_POST_FILTER_FACTOR = 4

Numbers = npt.NDArray[np.int64]


class QueryRefused(InputError):
    """The live bundle's model needs a query and there is none, or reads none and there is one."""


@dataclass
class Timings:
    """Milliseconds by step."""

    steps_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        yield
        self.steps_ms[name] = (time.perf_counter() - started) * 1000

    def rounded(self) -> dict[str, float]:
        """With their total, to the microsecond."""
        total = sum(self.steps_ms.values())
        return {name: round(ms, 3) for name, ms in [*self.steps_ms.items(), ("total", total)]}


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """A request's vector and what it was made from.

    Attributes:
        user_key: None for an anonymous request.
        rows: the raw feature rows, before the cut, and from when each is valid.
        vector_D: float32 [D].
    """

    at_ms: int
    user_key: int | None
    rows: Mapping[str, StampedRow | None]
    windows: Windows
    vector_D: npt.NDArray[np.float32]

    @property
    def personalised(self) -> bool:
        """Whether any behaviour of the user reached the tower."""
        return any(lengths(self.windows).values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Rows of the item table [n] with their scores [n], and the terms they all satisfy."""

    rows: Numbers
    scores: npt.NDArray[np.float32]
    applied: tuple[FoundTerm, ...]

    @classmethod
    def of(
        cls,
        shelf: Shelf,
        hits: Sequence[Hits],
        *,
        passing: Mask,
        applied: tuple[FoundTerm, ...],
    ) -> Found:
        """The hits of several searches behind each other, each item where it came first.

        While an item changes, Milvus and the shelf may differ about it for a moment: what the
        shelf lacks, or does not let pass, is left out, so that what is shown satisfies the filters.
        """
        rows = shelf.rows(np.concatenate([each.keys for each in hits]))
        scores = np.concatenate([each.scores for each in hits])
        _, first = np.unique(rows, return_index=True)
        right = (rows >= 0) & passing[rows]
        places = np.sort(first)
        return cls(rows=rows, scores=scores, applied=applied).at(places[right[places]])

    def at(self, places: Numbers) -> Found:
        """Some of them, in that order."""
        return replace(self, rows=self.rows[places], scores=self.scores[places])

    def first(self, k: int) -> Found:
        """The first k."""
        return self.at(np.arange(min(k, len(self.rows))))


class Engine:
    """Answers searches on whatever bundle it is given."""

    def __init__(self, settings: Settings, searcher: Searcher) -> None:
        self._relevance: Relevance = settings.serving.relevance
        self._min_relevant = settings.serving.min_relevant
        self._searcher = searcher

    def search(
        self, live: Live, request: SearchRequest, timings: Timings
    ) -> tuple[SearchAnswer, Embedded]:
        """The answer, and what it was made from. Raises: QueryRefused, DependencyDown."""
        embedded = embed(live, request, timings)
        mode = request.relevance or self._relevance
        with timings.step("terms"):
            terms = live.vocabulary.terms(request.query)
            passing = live.shelf.passing(request.filters)
            wanted = [] if mode == "off" else terms
            decided = control(
                live.shelf,
                wanted,
                passing=passing,
                min_relevant=self._min_relevant if mode == "filter" else 0,
            )
        with timings.step("index"):
            tiers = _tiers(decided, mode)
            asked = [expression(request.filters, [term.clause for term in tier]) for tier in tiers]
            late = mode == "post_filter" and bool(decided.kept)
            fetched = min(request.k * _POST_FILTER_FACTOR, MAX_K) if late else request.k
            hits = [self._hits(live, embedded.vector_D, k=fetched, asked=each) for each in asked]
        with timings.step("items"):
            found = Found.of(live.shelf, hits, passing=passing, applied=decided.kept)
            if late:
                found = post_filter(live.shelf, found, enough=min(self._min_relevant, request.k))
            results = _results(live, found.first(request.k), terms)
        answer = SearchAnswer(
            search_id=uuid.uuid4().hex,
            at=_moment(embedded.at_ms),
            bundle=live.bundle.name,
            collection=live.bundle.collection,
            personalised=embedded.personalised,
            relevance=mode,
            fell_back=len(found.applied) < len(wanted),
            terms=[_shown(term, applied=term in found.applied) for term in terms],
            results=results,
            timings_ms=timings.rounded(),
            explanation=Explanation(
                expressions=asked, matches=decided.matches, windows=lengths(embedded.windows)
            )
            if request.explain
            else None,
        )
        return answer, embedded

    def embed(self, live: Live, request: EmbedRequest, timings: Timings) -> EmbedAnswer:
        """The vector alone. Raises: QueryRefused, DependencyDown("redis")."""
        embedded = embed(live, request, timings)
        return EmbedAnswer(
            vector=embedded.vector_D.tolist(),
            collection=live.bundle.collection,
            bundle=live.bundle.name,
            at=_moment(embedded.at_ms),
            personalised=embedded.personalised,
            timings_ms=timings.rounded(),
        )

    def ping(self, live: Live | None) -> None:
        """One real search where a bundle is live. Raises: DependencyDown("milvus")."""
        if live is None:
            self._searcher.ping()
        else:
            self._hits(live, live.bundle.item_vectors[0], k=1, asked="")

    def _hits(self, live: Live, vector_D: npt.NDArray[np.float32], *, k: int, asked: str) -> Hits:
        collection = live.bundle.collection
        return self._searcher.search(collection, vector_D[None], k=k, expression=asked)[0]


def post_filter(shelf: Shelf, found: Found, *, enough: int) -> Found:
    """Those that satisfy all terms; were they fewer than `enough`, the others behind them."""
    right = satisfying(shelf, found.applied)[found.rows]
    if right.sum() >= min(enough, len(found.rows)):
        return found.at(np.flatnonzero(right))
    return replace(found.at(np.argsort(~right, kind="stable")), applied=())


def _tiers(decided: Control, mode: Relevance) -> list[tuple[FoundTerm, ...]]:
    """The terms that each search filters by; a later one fills up behind an earlier one."""
    if mode == "post_filter":
        return [()]
    all_terms = (*decided.kept, *decided.dropped)
    return [all_terms, decided.kept] if decided.dropped and decided.exact else [decided.kept]


def embed(live: Live, request: EmbedRequest, timings: Timings) -> Embedded:
    """Read the user's rows and run the user tower.

    Raises: QueryRefused, DependencyDown("redis").
    """
    _require_fit(live, request.query)
    at_ms = now_ms()
    with timings.step("features"):
        user_key = None if request.user_id is None else key_of("user", request.user_id)
        stamped = {} if user_key is None else _read(live, user_key, at_ms)
        rows = {name: None if row is None else row.values for name, row in stamped.items()}
        windows = windows_of(rows, at_ms=at_ms, spec=live.bundle.manifest.windows)
    with timings.step("tower"):
        vector_D = live.bundle.embed([Request(query=request.query, at_ms=at_ms, rows=rows)])[0]
    return Embedded(
        at_ms=at_ms, user_key=user_key, rows=stamped, windows=windows, vector_D=vector_D
    )


def _require_fit(live: Live, query: str) -> None:
    """Ignored, a query would be taken for answered: by its terms alone, if it has any."""
    reads = live.bundle.manifest.reads_queries
    if query and not reads:
        raise QueryRefused(
            "cannot be answered",
            where="query",
            expected=f"none: the model of bundle {live.bundle.name} reads no queries",
            next_step="Leave it out; `filters` say what results must be.",
        )
    if reads and not query:
        raise QueryRefused(
            "is missing",
            where="query",
            expected=f"words: the model of bundle {live.bundle.name} reads queries",
            next_step="To recommend without, put a bundle live that was trained without queries.",
        )


def _read(live: Live, user_key: int, at_ms: int) -> dict[str, StampedRow | None]:
    return live.reader.alive_at(live.reader.read_stamped([user_key])[0], at_ms)


def sequences(live: Live, user_id: str) -> Sequences:
    """What the tower would see of a user now. Raises: DependencyDown("redis")."""
    at_ms = now_ms()
    rows = live.reader.read(key_of("user", user_id), at_ms)
    windows = windows_of(rows, at_ms=at_ms, spec=live.bundle.manifest.windows)
    parts = [windows.real_time, windows.short_term, *windows.long_term.values()]
    items = live.shelf.known(np.unique(np.concatenate([part.value for part in parts])))
    unknown = dict.fromkeys(Seen.model_fields.keys() - {"at"})

    def seen(part: Any) -> list[Seen]:
        return [
            Seen.model_construct(**(items.get(key) or unknown), at=_moment(ts))
            for ts, key in zip(part.ts[::-1].tolist(), part.value[::-1].tolist(), strict=True)
        ]

    return Sequences(
        user_id=user_id,
        at=_moment(at_ms),
        bundle=live.bundle.name,
        known=any(lengths(windows).values()),
        real_time=seen(windows.real_time),
        short_term=seen(windows.short_term),
        long_term={action: seen(part) for action, part in windows.long_term.items()},
        queries=[
            Asked(query=text, at=_moment(ts))
            for ts, text in zip(
                windows.queries.ts[::-1].tolist(), windows.queries.value[::-1], strict=True
            )
        ],
    )


def lengths(windows: Windows) -> dict[str, int]:
    """Events in each window."""
    return {
        "real_time": len(windows.real_time),
        "short_term": len(windows.short_term),
        **{f"long_{action}": len(part) for action, part in windows.long_term.items()},
        "queries": len(windows.queries),
    }


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


def _results(live: Live, found: Found, terms: list[FoundTerm]) -> list[Result]:
    satisfied = {
        term.phrase: live.shelf.satisfying(term.clause)[found.rows].tolist() for term in terms
    }
    return [
        Result.model_construct(
            **item,
            score=score,
            terms=[phrase for phrase, passes in satisfied.items() if passes[at]],
        )
        for at, (item, score) in enumerate(
            zip(live.shelf.show(found.rows), found.scores.tolist(), strict=True)
        )
    ]


def _shown(term: FoundTerm, *, applied: bool) -> Term:
    fields = {name: list(values) for name, values in term.clause.items()}
    return Term(phrase=term.phrase, fields=fields, applied=applied)


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
