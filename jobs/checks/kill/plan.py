"""The rounds of a run: which kind, at which instant; the same seed plans the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, islice, pairwise

from pagoda.errors import InputError

RANDOM = "at random"
TWICE = "at random, and again while it starts"
LOSING = "losing the last second of its log"
LOSING_IDLE = "losing the last second of its log, nothing being sent"
HUNG = "after hanging longer than the rewind, losing a second of its log"
WRITING = "while data files are being written"
WITH_TASKS = "with its tasks"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is killed.

    Attributes:
        weight: its rounds of 300.
        instants: taken in turn; a name with a dot is a point of `pagoda.faults`.
        needs: the servers that such a round uses.
        rewind_s: how far the consumer goes back over what it has committed. Only where Redis dies
            it may: elsewhere it would cover up a commit that comes before its write.
    """

    weight: int
    instants: tuple[str, ...]
    needs: tuple[str, ...]
    rewind_s: float = 0


_STREAM = ("kafka", "redis", "sequences")
_ROAD = (*_STREAM, "landing")
# In the order of a run: features are built of all that was ever sent in it, and nearly all of it is
# late, so jobs that build them come while that is little.
KINDS = {
    "batch": Kind(
        weight=5,
        instants=(WRITING, "build.user_items", RANDOM, "build.user_day", "build.item_stats"),
        needs=_ROAD,
    ),
    "materialise": Kind(
        weight=5,
        instants=(RANDOM, "materialise.user_day", "materialise.user_items"),
        needs=_ROAD,
    ),
    "index": Kind(
        weight=5,
        instants=(
            "index.inserted",
            "release.pointed",
            "index.renamed",
            RANDOM,
            "index.indexed",
            "index.checked",
            "index.built",
            "index.released",
        ),
        needs=("milvus",),
    ),
    "scheduler": Kind(
        weight=5,
        instants=(RANDOM, WITH_TASKS),
        needs=("kafka", "redis", "landing", "airflow"),
    ),
    "consumer": Kind(
        weight=200,
        instants=(
            RANDOM,
            "sequences.polled",
            "sequences.decoded",
            "sequences.read",
            "sequences.written",
            "sequences.rejected",
            "sequences.committed",
            TWICE,
        ),
        needs=_STREAM,
    ),
    "redis": Kind(
        weight=40,
        instants=(
            LOSING,
            "sequences.read",
            RANDOM,
            LOSING_IDLE,
            "sequences.written",
            HUNG,
        ),
        needs=_STREAM,
        rewind_s=3,
    ),
    "broker": Kind(
        weight=20,
        instants=(RANDOM, "sequences.written", "sequences.rejected", "landing.written"),
        needs=_ROAD,
    ),
    "landing": Kind(
        weight=20,
        instants=(
            "landing.written",
            RANDOM,
            "landing.committed",
            "landing.ids_added",
            "landing.decoded",
            "landing.rejected_added",
        ),
        needs=_ROAD,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Round:
    """One kill and what follows; `number` counts from 1."""

    number: int
    kind: str
    instant: str
    seed: int

    @property
    def point(self) -> str | None:
        """The point of `pagoda.faults`, if the instant is one."""
        return self.instant if "." in self.instant else None

    @property
    def dice(self) -> random.Random:
        """All chance of this round; `seed` belongs to the run."""
        return random.Random(f"{self.seed} {self.number} {self.kind}")  # noqa: S311


def plan(*, rounds: int, seed: int, only: Sequence[str] = ()) -> list[Round]:
    """Rounds by the kinds' weights, one kind after another.

    Raises: InputError naming what is no kind.
    """
    unknown = sorted(set(only) - KINDS.keys())
    if unknown:
        raise InputError(
            f"no such kind: {', '.join(unknown)}", expected=f"any of {', '.join(KINDS)}"
        )
    chosen = [name for name in KINDS if not only or name in only]
    weights = [KINDS[name].weight for name in chosen]
    made: list[Round] = []
    for name, count in zip(chosen, _shares(rounds, weights), strict=True):
        for instant in islice(cycle(KINDS[name].instants), count):
            made.append(Round(number=len(made) + 1, kind=name, instant=instant, seed=seed))
    return made


def _shares(rounds: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers in proportion to the weights; they add up."""
    bounds = [round(rounds * upto / sum(weights)) for upto in accumulate(weights, initial=0)]
    return [after - before for before, after in pairwise(bounds)]
