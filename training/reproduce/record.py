"""What is kept of a reproduction, as JSON: a file a finished run, and one for what all stand on.

    <folder>/<part>/<ground>/ground.json
    <folder>/<part>/<ground>/<variant>.<seed>.<recipe>.json

Each file is written whole or not at all, and named by what decides on its content: a reproduction
that was stopped goes on where it was, and another recipe or other rows give other files. A run
keeps every judged line's rank, so that two runs can be compared line by line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pagoda import whole
from training.recipes import Recipe
from training.reproduce.variants import fingerprint

GROUND = "ground.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Facts(_Record):
    """What a data set is, for people.

    Attributes:
        queries: where they come from. candidates: how many items are ranked.
    """

    data_set: str
    queries: str
    trained_on: str
    judged_on: str
    candidates: int


class GroundRecord(_Record):
    """What the runs of a part stand on: B judged lines.

    Attributes:
        relevance: what the share of the first K on the wanted shelf is called here.
        user: each line's user, numbered. sets: by name, 1 for lines in it.
        shelved: 1 for lines whose wanted shelf is known.
        baselines: by method, each line's rank; -1 for a miss.
        ceiling: by K, the most that the share on the wanted shelf can be: shelves are small.
    """

    facts: Facts
    relevance: str
    user: list[int]
    sets: dict[str, list[int]]
    shelved: list[int]
    baselines: dict[str, list[int]]
    ceiling: dict[int, float]

    @property
    def judged(self) -> tuple[list[int], dict[str, list[int]], list[int]]:
        """What tells the judged lines, in their order, from others."""
        return self.user, self.sets, self.shelved


class ZeroShare(_Record):
    """Mean weight of the zero vector in the attention over one sequence.

    Attributes:
        related: whether the sequence holds an item of the leaf category that was then taken.
        lines: how many there are whose sequence is not empty.
    """

    sequence: str
    related: bool
    lines: int
    share: float


class RunRecord(_Record):
    """One model, trained and judged.

    Attributes:
        recipe: all of it.
        losses: (step, mean loss since the one before).
        recalls: (step, recall@100 on some judged lines), where it was traced.
        ranks: each judged line's rank; -1 for a miss.
        good: by K, how many of each line's first K stand on the wanted shelf.
        empty: share of lines whose sequence is empty, by sequence.
        device: what it was trained on.
    """

    variant: str
    seed: int
    recipe: dict[str, Any]
    train_lines: int
    steps: int
    seconds: dict[str, float]
    losses: list[tuple[int, float]]
    recalls: list[tuple[int, float]]
    ranks: list[int]
    good: dict[int, list[int]]
    zero: list[ZeroShare]
    empty: dict[str, float]
    device: str = "cpu"


def path(folder: Path, variant: str, recipe: Recipe) -> Path:
    """Where the run of a seeded recipe lies in its ground's folder."""
    plain = re.sub(r"[^a-z0-9.+]+", "-", variant.lower())
    return folder / f"{plain}.{recipe.loop.seed}.{fingerprint(recipe)}.json"


def write(target: Path, record: BaseModel) -> None:
    """Whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    whole.write(target, record.model_dump_json())


def newest_ground(folder: Path, part: str) -> Path | None:
    """The folder of the ground that the part's runs stood on last, if any did."""
    grounds = sorted((folder / part).glob(f"*/{GROUND}"), key=lambda each: each.stat().st_mtime)
    return grounds[-1].parent if grounds else None


def read_ground(folder: Path) -> GroundRecord:
    """The ground in its folder."""
    return GroundRecord.model_validate_json((folder / GROUND).read_bytes())


def read_runs(paths: Iterator[Path]) -> list[RunRecord]:
    """The runs that are there."""
    return [RunRecord.model_validate_json(each.read_bytes()) for each in paths if each.exists()]
