"""What is run: parts, each some variants on the rows of one data set, in two sizes.

ablations   completejourney, judged on the validation week: every variant, the latest lines
noise n     simulated shoppers who click by mistake with chance n: the claims about noise
final       completejourney, twelve months, judged on the test week: nothing is chosen by it; the
            recipes that are shipped
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pagoda.errors import InputError
from training.data.lines import Week
from training.recipes import Recipe
from training.reproduce.variants import (
    BASE,
    BASELINE,
    HINGE,
    LEAVE_ONE_OUT,
    MIX_CORRECTED,
    POOLED,
    SWEPT,
    UNCLAIMED,
    VARIANTS,
    YEAR,
    shrunk,
)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Options of `pagoda stream simulate`; `noise` is what parts differ in."""

    users: int
    days: int = 42
    until: str = "2026-03-01"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Variants on the rows of one data set, all judged on the same lines.

    Attributes:
        week: which one is judged; what came before it is trained on.
        train_days: so many days at most. rows: the latest so many lines of them; None: all.
        judged: so many lines of the week, drawn by requests; None: all.
        variants: recipes by their names in the report.
        noise: of simulated shoppers; None: completejourney.
        small: models of a width that shows that everything runs, and nothing else.
    """

    name: str
    week: Week
    train_days: int
    rows: int | None
    judged: int | None
    variants: Mapping[str, Recipe]
    noise: float | None = None
    small: bool = False

    @property
    def home(self) -> str:
        """The folder of its data set."""
        return "completejourney" if self.noise is None else f"simulated-{self.noise:g}"

    def recipe(self, variant: str) -> Recipe:
        """The variant as it is trained here."""
        recipe = replace(self.variants[variant], train_days=self.train_days)
        return shrunk(recipe) if self.small else recipe

    def seeds_of(self, variant: str, seeds: int) -> int:
        """How many: of what no claim compares two at most, as many as a difference needs."""
        return min(seeds, 2) if variant in UNCLAIMED else seeds

    def by_rows(self) -> list[Part]:
        """The part in parts whose variants all read the same rows."""
        groups: dict[object, dict[str, Recipe]] = {}
        for variant, recipe in self.variants.items():
            key = (recipe.service, recipe.windows, recipe.tokenizer)
            groups.setdefault(key, {})[variant] = recipe
        return [replace(self, variants=group) for group in groups.values()]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything.

    Attributes:
        households: of completejourney; None: all.
    """

    parts: tuple[Part, ...]
    simulation: Simulation
    seeds: int
    households: int | None = None


_COMPARED = (BASE.name, BASELINE, *LEAVE_ONE_OUT)
_NOISES = (0.0, 0.1, 0.4)


def _some(*names: str) -> dict[str, Recipe]:
    return {name: VARIANTS[name] for name in names}


def _noise(noise: float, *variants: str, rows: int, judged: int | None, small: bool) -> Part:
    return Part(
        name=f"noise {noise:g}",
        week="validation",
        train_days=28,
        rows=rows,
        judged=judged,
        variants=_some(*_COMPARED, *variants),
        noise=noise,
        small=small,
    )


FULL = Size(
    parts=(
        Part(
            name="ablations",
            week="validation",
            train_days=84,
            rows=300_000,
            judged=10_000,
            variants=VARIANTS,
        ),
        *(
            _noise(
                noise,
                HINGE,
                MIX_CORRECTED,
                *((*SWEPT, *POOLED) if noise == _NOISES[1] else ()),
                rows=90_000,
                judged=10_000,
                small=False,
            )
            for noise in _NOISES
        ),
        Part(
            name="final",
            week="test",
            train_days=350,
            rows=None,
            judged=None,
            variants=YEAR,
        ),
    ),
    simulation=Simulation(users=8_000),
    seeds=3,
)
SMALL = Size(
    parts=(
        Part(
            name="ablations",
            week="validation",
            train_days=14,
            rows=4_000,
            judged=500,
            variants=_some(*_COMPARED, HINGE, MIX_CORRECTED, *SWEPT),
            small=True,
        ),
        _noise(_NOISES[1], HINGE, MIX_CORRECTED, *SWEPT, rows=4_000, judged=500, small=True),
        Part(
            name="final",
            week="test",
            train_days=28,
            rows=None,
            judged=None,
            variants=YEAR,
            small=True,
        ),
    ),
    simulation=Simulation(users=400),
    seeds=2,
    households=100,
)
SIZES = {"small": SMALL, "full": FULL}


def chosen(size: Size, only: Sequence[str]) -> tuple[Part, ...]:
    """The parts of these names, all if none is named; `noise` names every noise.

    Raises: InputError naming what is no part.
    """
    names_of = {part.name: {part.name, part.name.split()[0]} for part in size.parts}
    if unknown := sorted(set(only) - set().union(*names_of.values())):
        raise InputError(
            "no such part",
            where="--only",
            expected=", ".join(part.name for part in size.parts),
            found=", ".join(unknown),
        )
    return tuple(part for part in size.parts if not only or names_of[part.name] & set(only))
