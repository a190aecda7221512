"""Law 1: which events a search at moment t may see, and as what.

    day -30             day -10 (00:00 UTC)                         t
    |------ long-term ------|-- short-term --|---- real-time -------|
      newest 100 each of      next 100 clicks   newest 50 clicks
      click, buy, collect     newest 20 queries over the same ten days

One function cuts all of them, at the moment of the request: online, in training rows and in
tests. Only events strictly before t count. Days are UTC days, so nothing depends on when a batch
ran, and at midnight the candidates of both days give the same cut.

Source: MGDSPR (KDD 2021), section 3.2.2; the cut by days is design law 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pagoda.sequences import EMPTY_ITEMS, EMPTY_QUERIES, Sequence, merge

DAY_MS = 86_400_000
LONG_TERM_ACTIONS = ("click", "buy", "collect")


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """Lengths in events, spans in UTC days.

    `batch_delay_days` is how late a daily batch may be without a trace: a user-day row carries
    the candidates for its own day and this many after it, and the stream keeps as many days.
    """

    recent_days: int = 10
    long_term_days: int = 20
    real_time: int = 50
    short_term: int = 100
    long_term: int = 100
    queries: int = 20
    batch_delay_days: int = 3

    def __post_init__(self) -> None:
        too_small = [name for name, value in vars(self).items() if value < 0]
        if too_small:
            raise ValueError(f"window settings must not be negative: {', '.join(too_small)}")
        if self.batch_delay_days >= self.recent_days:
            raise ValueError(
                "batch_delay_days must be below recent_days: a row's long-term candidates "
                "must all be known on its own day"
            )

    def beyond(self, held: WindowSpec) -> list[str]:
        """What these windows need that rows built with `held` do not hold; empty if they fit."""
        names = ("recent_days", "clicks", "queries", "long_term_days", "long_term")
        wanted = {name: getattr(self, name) for name in (*names, "batch_delay_days")}
        problems = [
            f"{name} {value}, rows hold {getattr(held, name)}"
            for name, value in wanted.items()
            if value > getattr(held, name)
        ]
        if self.long_term and self.long_term_days and self.recent_days < held.recent_days:
            # Long-term candidates end where the recent days of the rows begin, not of the model.
            problems.append(
                f"recent_days {self.recent_days} with a long term before them, "
                f"rows hold exactly {held.recent_days}"
            )
        return problems

    @property
    def clicks(self) -> int:
        """Clicks that real-time and short-term take together."""
        return self.real_time + self.short_term

    @property
    def stream_days(self) -> int:
        """Days that the stream keeps and a view's row stays valid: the row's own and the delay."""
        return self.batch_delay_days + 1


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What is known of a user around a moment: a superset of every window."""

    clicks: Sequence = field(default_factory=lambda: EMPTY_ITEMS)
    queries: Sequence = field(default_factory=lambda: EMPTY_QUERIES)
    long_term: dict[str, Sequence] = field(default_factory=dict)

    def union(self, other: Candidates) -> Candidates:
        """Both sides' events, each once (law 2 makes this safe)."""
        return Candidates(
            clicks=merge(self.clicks, other.clicks, limit=None),
            queries=merge(self.queries, other.queries, limit=None),
            long_term={
                action: merge(
                    self.long_term.get(action, EMPTY_ITEMS),
                    other.long_term.get(action, EMPTY_ITEMS),
                    limit=None,
                )
                for action in LONG_TERM_ACTIONS
            },
        )


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What the towers see of a user's behaviour at one moment; each oldest first."""

    real_time: Sequence
    short_term: Sequence
    long_term: dict[str, Sequence]
    queries: Sequence


def start_of_day(at_ms: int) -> int:
    """Midnight (UTC) of the day that holds `at_ms`, epoch milliseconds."""
    return at_ms - at_ms % DAY_MS


def cut(candidates: Candidates, *, at_ms: int, spec: WindowSpec) -> Windows:
    """Cut a user's candidates to the windows of a request at `at_ms`."""
    recent_start = start_of_day(at_ms) - spec.recent_days * DAY_MS
    long_start = recent_start - spec.long_term_days * DAY_MS
    clicks = _between(candidates.clicks, recent_start, at_ms).newest(spec.clicks)
    boundary = max(len(clicks) - spec.real_time, 0)
    return Windows(
        real_time=clicks.where(slice(boundary, None)),
        short_term=clicks.where(slice(boundary)),
        long_term={
            action: _between(
                candidates.long_term.get(action, EMPTY_ITEMS), long_start, recent_start
            ).newest(spec.long_term)
            for action in LONG_TERM_ACTIONS
        },
        queries=_between(candidates.queries, recent_start, at_ms).newest(spec.queries),
    )


def _between(sequence: Sequence, from_ms: int, to_ms: int) -> Sequence:
    """Events with from_ms <= ts < to_ms; a sequence is sorted by time."""
    first, last = sequence.ts.searchsorted([from_ms, to_ms])
    return sequence.where(slice(int(first), int(last)))
