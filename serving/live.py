"""The bundle that serves, whole: towers, items, terms, feature reader and collection.

A thread follows the registry's pointer, and the updates of the current bundle's items. What is new
is loaded and checked beside the old and takes its place in one assignment; a request works on what
it started with to its end. A bundle that cannot be loaded leaves the old one serving and shows in
`/ready`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import structlog
from redis import Redis

from pagoda import registry, updates
from pagoda.bundle import Bundle, Request
from pagoda.errors import BundleRefused, DependencyDown, PagodaError
from pagoda.index import fingerprint, milvus, standing
from pagoda.online import OnlineReader
from pagoda.settings import Settings
from pagoda.shelf import Shelf
from pagoda.understanding import Vocabulary

log = structlog.get_logger()
_POLLS_BETWEEN_TRIES = 10  # a bundle that is refused is not hashed again every second
_TITLES_TO_WARM_UP = 8


@dataclass(frozen=True, kw_only=True)
class Live:
    """One bundle and all that belongs to it.

    Attributes:
        stamp: which updates the shelf holds, see `pagoda.updates`.
    """

    bundle: Bundle
    stamp: tuple[int, ...]
    shelf: Shelf
    vocabulary: Vocabulary
    reader: OnlineReader

    @classmethod
    def load(cls, settings: Settings, name: str, redis: Redis) -> Live:
        """Load it whole.

        Raises: BundleRefused if it or its collection is not whole, DependencyDown("milvus").
        """
        bundle = Bundle.load(registry.require(settings, name))
        _require_collection(settings, bundle)
        # The first costs 10 times, and one with Chinese words a second.
        titles = bundle.items["title"].slice(0, _TITLES_TO_WARM_UP).drop_null().to_pylist()
        bundle.embed([Request(query=" ".join(titles), at_ms=0, rows={})])
        stamp, shelf = _shelf(settings, bundle)
        return cls(
            bundle=bundle,
            stamp=stamp,
            shelf=shelf,
            vocabulary=Vocabulary(shelf),
            reader=OnlineReader(settings, bundle.service, client=redis),
        )

    def with_updates(self, settings: Settings) -> Live:
        """The same with its items as they are now; this very object if nothing is new."""
        if self.stamp == updates.stamp(settings, self.bundle.name):
            return self
        stamp, shelf = _shelf(settings, self.bundle)
        log.info("items_updated", bundle=self.bundle.name, items=len(shelf))
        return replace(self, stamp=stamp, shelf=shelf, vocabulary=Vocabulary(shelf))


class Follower:
    """Holds what is live and follows the pointer."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings = settings
        self._redis = redis
        self._live: Live | None = None
        self._problem: PagodaError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    @property
    def problem(self) -> PagodaError | None:
        """Why the current bundle does not serve, if so."""
        return self._problem

    @property
    def name(self) -> str | None:
        """Which bundle serves."""
        return self._live.bundle.name if self._live else None

    @property
    def now(self) -> Live | None:
        """What serves now, if anything does."""
        return self._live

    def live(self) -> Live:
        """What serves now. Raises: DependencyDown naming what keeps the first bundle away."""
        live = self._live
        if live is not None:
            return live
        if isinstance(self._problem, DependencyDown):
            raise self._problem
        raise DependencyDown(
            "bundle",
            str(self._problem or "none was promoted yet"),
            next_step="Train one, then `pagoda index`.",
        )

    def start(self) -> None:
        """Load the current bundle if there is one, then follow the pointer in the background."""
        self.step()
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def step(self) -> None:
        """Look at the pointer once, and load what it names or what is new of that."""
        try:
            name = registry.current(self._settings)
            if name is not None and (self._live is None or name != self.name):
                self._live = Live.load(self._settings, name, self._redis)
                log.info("bundle_serves", bundle=name, items=len(self._live.shelf))
            elif self._live is not None:
                self._live = self._live.with_updates(self._settings)
            self._note(None)
        except PagodaError as error:
            self._note(error)
        except Exception as error:  # whatever is wrong with a bundle must not end the thread
            self._note(BundleRefused(f"{type(error).__name__}: {error}"))

    def _note(self, problem: PagodaError | None) -> None:
        if problem is not None and str(problem) != str(self._problem):
            log.error("bundle_not_loaded", reason=str(problem), serving=self.name)
        self._problem = problem

    def _follow(self) -> None:
        poll_s = self._settings.serving.poll_ms / 1000
        while not self._stop.wait(poll_s * _POLLS_BETWEEN_TRIES if self._problem else poll_s):
            self.step()


def _shelf(settings: Settings, bundle: Bundle) -> tuple[tuple[int, ...], Shelf]:
    """The bundle's items with their updates; the stamp is read first, so none is missed."""
    stamp = updates.stamp(settings, bundle.name)
    items, _ = updates.merged(bundle, updates.read(settings, bundle))
    return stamp, Shelf(items)


def _require_collection(settings: Settings, bundle: Bundle) -> None:
    """A vector of this bundle means nothing in another's collection."""
    with milvus(settings) as client:
        found = standing(client, bundle.name)
    if found.fingerprint != fingerprint(bundle.items, bundle.item_vectors):
        raise BundleRefused(
            "the collection was built from other vectors or items",
            where=bundle.collection,
            next_step=f"Build it again: `pagoda index --bundle {bundle.name}`.",
        )
