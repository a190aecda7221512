"""The data sets that a reproduction stands on, each in a PAGODA_HOME of its own.

They are made by Pagoda's own commands, from nothing: an import, the features of the days that are
needed; and for simulated shoppers first their days as files, with the truth beside them. What is
there already is not made again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from pagoda import dataset as datasets
from pagoda import features, private_home
from pagoda.console import people
from pagoda.errors import InputError
from pagoda.settings import PROJECT_ROOT, Settings
from training.data import rows
from training.data.lines import Span
from training.inputs import plan
from training.reproduce.ground import SIMULATION
from training.reproduce.plan import Part, Size

MAKER = "reproduce"
_SEED = 1


def make(settings: Settings, folder: Path, size: Size, part: Part) -> Path:
    """The home of a part's data set, made if it is not there; its folder.

    Args:
        settings: of the user, for the jars. folder: where homes lie.
    """
    home = _real(settings, folder, size)
    if part.noise is not None:
        home = _simulated(settings, folder, size, part.noise, catalogue=home)
    of_home = [each for each in size.parts if each.home == part.home]
    with private_home.entered(home) as own:
        if span := lacking(own, of_home):
            pagoda(home, "features", "apply")
            pagoda(home, "features", "build", f"--from={span.first}", f"--to={span.last}")
    return home


def lacking(own: Settings, parts: Sequence[Part]) -> Span | None:
    """The days from the first to the last that the parts need, if features of any are missing."""
    dataset = datasets.load(own)
    missing = False
    needs: dict[object, Span] = {}
    for part in parts:
        for recipe in map(part.recipe, part.variants):
            whole = plan(recipe, dataset, part.week).whole
            need = (whole, recipe.service, recipe.windows)
            if need in needs:
                continue
            needs[need] = whole
            try:
                rows.require_built(own, features.service(recipe.service), whole, recipe.windows)
            except InputError:
                missing = True
    first = min(each.first for each in needs.values())
    end = max(each.end for each in needs.values())
    return Span(first=first, end=end) if missing else None


def pagoda(home: Path, *arguments: str) -> None:
    """One of Pagoda's commands on that home; its tables go to stderr. Raises: typer.Exit."""
    run_module(home, "pagoda.cli.main", *arguments, shown=" ".join(("pagoda", *arguments)))


def run_module(home: Path, module: str, *arguments: str, shown: str) -> None:
    """`python -m MODULE` on that home to its end. Raises: typer.Exit with its code if it fails."""
    people.print(f"[dim]{home.name}: {shown}[/]", highlight=False)
    with private_home.entered(home):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=PROJECT_ROOT, stdout=sys.stderr
        )
    if done.returncode:
        people.print(f"stopped at: {shown}. The same command goes on from here.", highlight=False)
        raise typer.Exit(done.returncode)


def _real(settings: Settings, folder: Path, size: Size) -> Path:
    home = _home(settings, folder / "completejourney")
    if not _imported(home):
        some = [] if size.households is None else [f"--households={size.households}"]
        pagoda(home, "import", "completejourney", "--no-shift", *some)
    return home


def _simulated(
    settings: Settings, folder: Path, size: Size, noise: float, *, catalogue: Path
) -> Path:
    """Shoppers over that home's catalogue, without robots, and without impressions as events:
    features read none, and the truth has them all."""
    home = _home(settings, folder / f"simulated-{noise:g}")
    if _imported(home):
        return home
    files, shop = home / SIMULATION, size.simulation
    options = {"seed": _SEED, "users": shop.users, "days": shop.days, "until": shop.until}
    options |= {"noise": noise, "robots": 0, "to-files": files}
    given = [f"--{name}={value}" for name, value in options.items()]
    pagoda(catalogue, "stream", "simulate", "--no-impressions", *given)
    pagoda(home, "import", "files", f"--mapping={files / f'simulated-{_SEED}.toml'}")
    return home


def _home(settings: Settings, home: Path) -> Path:
    private_home.make(home, maker=MAKER, jars=settings.jars, option="PAGODA_HOME")
    return home


def _imported(home: Path) -> bool:
    return (home / "dataset.json").exists()
