"""The sets of lines that metrics are shown for.

A line is in a set by what was known before it: events at or after its moment, and for items those
in the judged week, change nothing.

Shape legend: B lines, N candidates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from training.evaluation.trial import Trial

NARROW, BROAD = 100, 1_000  # candidates that hold the query's words: the k of recall they fit into

Chosen = npt.NDArray[np.bool_]


def row_sets(trial: Trial) -> dict[str, Chosen]:
    """Which lines each set holds, [B], by name.

    * `repeats`: the line's user had an event with its item before the line; `non-repeats`.
    * `with history`: the user had any event before the line; `without history`.
    * `narrow queries`: at most 100 candidates hold every word of the query; `middle queries`: at
      most 1,000; `broad queries`: more.
    * `head items`: the line's item is among the most popular candidates that together have a third
      of all candidates' events; `middle items`: the next third; `tail items`: the rest. An item on
      a border belongs to the more popular third. Items that are no candidates are in none.
    """
    repeats = _had_before(trial, "user_key", "item_key")
    known = _had_before(trial, "user_key")
    matching_B = _matching(trial)
    third_B = _thirds(trial.popularity)[trial.targets]
    return {
        "all": np.ones(trial.examples.lines, bool),
        "repeats": repeats,
        "non-repeats": ~repeats,
        "with history": known,
        "without history": ~known,
        "narrow queries": matching_B <= NARROW,
        "middle queries": (matching_B > NARROW) & (matching_B <= BROAD),
        "broad queries": matching_B > BROAD,
        "head items": third_B == 0,
        "middle items": third_B == 1,
        "tail items": third_B == 2,
    }


def _had_before(trial: Trial, *on: str) -> Chosen:
    """Whether there was an event with the line's user (and item) before the line."""
    examples = trial.examples
    first = trial.history.group_by(on).agg(pl.col("t_ms").min())
    lines = pl.DataFrame(
        {
            "user_key": trial.users,
            "item_key": examples.item_key_B,
            "line_t_ms": examples.t_ms_U[examples.request_B],
        }
    )
    joined = lines.join(first, on=on, how="left", maintain_order="left")
    return (
        joined.select((pl.col("t_ms") < pl.col("line_t_ms")).fill_null(value=False))
        .to_series()
        .to_numpy()
    )


def _matching(trial: Trial) -> npt.NDArray[np.int64]:
    """How many candidates hold every word of each line's query."""
    queries = trial.examples.queries
    found = {query: np.count_nonzero(trial.index.matches(query)) for query in set(queries)}
    return np.array([found[query] for query in queries], np.int64)


def _thirds(events_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1 or 2 for each candidate, by the share of events that more popular ones have; [N + 1].

    The last place, which -1 finds, stands for no candidate.
    """
    before_N = np.cumsum(events_N) - events_N
    return np.append(3 * before_N // max(int(events_N.sum()), 1), -1)
