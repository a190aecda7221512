"""`make mutate`: change the code of laws 1 to 3 in small ways; a test must notice each change.

    mutmut (settings: pyproject.toml) -> mutants/ -> a score by module; what survived fails

Each mutant meets the fast tests that reach its function. What was killed stays killed until its
function changes; survivors meet the tests again in every run, then with more examples. So a run
can be interrupted and goes on. `tests/mutants.toml` lists which mutants change nothing and why, and
which functions only Spark or servers run; what it lists and nobody finds any more fails too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

from pagoda import console
from pagoda.errors import CheckFailed
from pagoda.settings import PROJECT_ROOT

FOLDER = Path("mutants")
LISTED = Path("tests/mutants.toml")
_KEY = re.compile(r"(?P<module>.+)\.x(?:_|ǁ(?P<owner>\w+)ǁ)(?P<name>\w+)__mutmut_\d+")
_KILLED = ("killed", "timeout")  # an endless loop is noticed too
_COLUMNS = ("mutants", "killed", "equivalent", "survived", "outside", "not checked")
app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change.

    Attributes:
        before, after: of one that survived, the lines that differ, joined to one line each.
    """

    key: str
    module: str
    function: str
    status: str
    before: str
    after: str

    @property
    def change(self) -> tuple[str, str, str]:
        """What identifies it, also when the function has changed elsewhere."""
        return self.function, self.before, self.after


@app.command()
def main(
    jobs: Annotated[int, typer.Option(help="Mutants that are tested at once.")] = 2,
    report: Annotated[
        bool, typer.Option("--report", help="Run nothing: show the last run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Test mutants, then show the score by module.

    Raises: CheckFailed if a mutant survived or was not tested, or what is listed was not found.
    """
    os.chdir(PROJECT_ROOT)
    listed = Listed.read()
    if not report:
        for profile in ("mutation", "mutation-thorough"):  # most die of few examples
            _forget_survivors(listed)
            _run(jobs, profile)
            if not any(listed.verdict(each) == "survived" for each in mutants()):
                break
    found = list(mutants())
    console.emit_table(score(found, listed), as_json=as_json)
    problems = [
        f"{each.key}: {each.status}\n      {each.before}\n      {each.after}"
        for each in found
        if listed.verdict(each) in ("survived", "not checked")
    ]
    problems += [f"listed, but gone or noticed: {each}" for each in listed.gone(found)]
    if problems:
        raise CheckFailed(
            "mutants were not noticed or not tested, or what is listed is gone",
            next_step=f"Write a test that notices them, or list them in {LISTED} with the reason.",
            problems=problems,
        )


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What `tests/mutants.toml` says.

    Attributes:
        equivalent: (function, line before, line after).
        outside: functions, or patterns of them.
    """

    equivalent: frozenset[tuple[str, str, str]]
    outside: frozenset[str]

    @classmethod
    def read(cls) -> Listed:
        """Raises: KeyError if a part is missing."""
        told = tomllib.loads(LISTED.read_text())
        return cls(
            equivalent=frozenset(
                (each["function"], each["before"], after)
                for each in told["equivalent"]
                for after in each["after"]
            ),
            outside=frozenset(told["outside"]),
        )

    def verdict(self, mutant: Mutant) -> str:
        """One of the columns of the score."""
        if mutant.status in _KILLED:
            return "killed"
        if mutant.status == "not checked":
            return mutant.status
        if any(fnmatch(mutant.function, pattern) for pattern in self.outside):
            return "outside"
        return "equivalent" if mutant.change in self.equivalent else "survived"

    def gone(self, found: list[Mutant]) -> list[str]:
        """What is listed and no mutant's: the code or the tests have changed."""
        alive = [each for each in found if each.status not in _KILLED]
        changes = self.equivalent - {each.change for each in alive}
        patterns = {
            pattern
            for pattern in self.outside
            if not any(fnmatch(each.function, pattern) for each in alive)
        }
        return sorted([*map(str, changes), *patterns])


def score(found: list[Mutant], listed: Listed) -> list[dict[str, Any]]:
    """A row of counts for each module, and one for all."""
    counts: dict[str, Counter[str]] = {}
    for each in found:
        counts.setdefault(each.module, Counter()).update([listed.verdict(each), "mutants"])
    counts = dict(sorted(counts.items())) | {"all": sum(counts.values(), Counter())}
    return [
        {"module": module, **{name: count[name] for name in _COLUMNS}}
        for module, count in counts.items()
    ]


def mutants() -> Iterator[Mutant]:
    """All mutants, with what the last run found."""
    for path, meta in _metas():
        for key, exit_code in meta["exit_code_by_key"].items():
            named = _KEY.fullmatch(key)
            assert named, key
            owner = f"{named['owner']}." if named["owner"] else ""
            status = status_by_exit_code[exit_code]
            before, after = _change(key, path) if status == "survived" else ("", "")
            yield Mutant(
                key=key,
                module=named["module"],
                function=f"{named['module']}.{owner}{named['name']}",
                status=status,
                before=before,
                after=after,
            )


def _change(key: str, path: str) -> tuple[str, str]:
    lines = get_diff_for_mutant(key, path=path).splitlines()[2:]
    before, after = (
        " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )
    return before, after


def _metas() -> Iterator[tuple[str, dict[str, Any]]]:
    for meta in sorted(FOLDER.rglob("*.py.meta")):
        yield str(meta.relative_to(FOLDER).with_suffix("")), json.loads(meta.read_text())


def _forget_survivors(listed: Listed) -> None:
    again = {each.key for each in mutants() if listed.verdict(each) == "survived"}
    for path, meta in _metas():
        codes = meta["exit_code_by_key"]
        meta["exit_code_by_key"] = {key: None if key in again else codes[key] for key in codes}
        (FOLDER / f"{path}.meta").write_text(json.dumps(meta))
    # Which tests reach a function: mutmut would not look again at functions that are new.
    (FOLDER / "mutmut-stats.json").unlink(missing_ok=True)


def _run(jobs: int, profile: str) -> None:
    # The same examples for every mutant; one thread, as many mutants run at once.
    env = {**os.environ, "HYPOTHESIS_PROFILE": profile, "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(jobs)]
    if sys.stderr.isatty():
        done = subprocess.run(command, env=env, stdout=sys.stderr, check=False)
    else:  # its progress is one endless line
        FOLDER.mkdir(exist_ok=True)
        with (FOLDER / "run.log").open("w") as log:
            done = subprocess.run(command, env=env, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise CheckFailed(
            "mutmut could not run",
            found=f"exit code {done.returncode}",
            next_step=f"See {FOLDER / 'run.log'}; the tests must pass without mutants.",
        )


if __name__ == "__main__":
    console.run(app)
