"""A run: its rounds, the journal that lets it go on after an interruption, and the report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout

from jobs.checks.kill import batches, scheduling, streams, vectors
from jobs.checks.kill.compare import Difference
from jobs.checks.kill.ledger import Ledger
from jobs.checks.kill.plan import KINDS, Round, plan
from jobs.checks.kill.streams import Outcome
from jobs.checks.kill.world import World, remove, world
from pagoda import servers
from pagoda.errors import Conflict, InputError, PagodaError
from pagoda.settings import Settings, load

_LEAVE_SERVERS_UP = ("consumer", "redis", "broker", "landing", "index")
Say = Callable[[Round, int, int], None]
"""Called before a round: the round, how many there are, differences so far."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was asked for."""

    rounds: int
    seed: int
    only: tuple[str, ...] = ()


class Journal:
    """One line for the run, one for each round that has ended; in `folder/journal.jsonl`."""

    def __init__(self, folder: Path, run: Run) -> None:
        """Open the journal of this run, or begin one.

        Raises: InputError if the folder holds an unfinished run of another kind.
        """
        self.path = folder / "journal.jsonl"
        self.rounds: list[dict[str, Any]] = []
        if self.path.exists():
            head, *self.rounds = map(orjson.loads, self.path.read_bytes().splitlines())
            if _run_of(head) != run:
                raise InputError(
                    "another run was begun here and has not ended",
                    where=str(self.path),
                    found=f"{_run_of(head)}, {len(self.rounds)} rounds done",
                    next_step="Give the same options to go on with it, or --fresh to forget it.",
                )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._write({**asdict(run), "begun": datetime.now(UTC).isoformat(timespec="seconds")})

    def add(self, entry: dict[str, Any]) -> None:
        """Note a round."""
        self.rounds.append(entry)
        self._write(entry)

    @property
    def known(self) -> set[tuple[str, str]]:
        """Differences of earlier rounds: they are there to stay, and are not counted again."""
        return {
            (each["where"], each["key"])
            for entry in self.rounds
            for each in entry["differences"]
            if each["key"]
        }

    def _write(self, entry: dict[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(orjson.dumps(entry) + b"\n")


def check(
    settings: Settings, run: Run, *, folder: Path, fresh: bool, keep: bool, say: Say
) -> dict[str, Any]:
    """Do the rounds that are left of a run; returns the report, which also lies in the folder.

    Args:
        folder: holds journal, ledger, report, and in `home` the private PAGODA_HOME.
        fresh: forget what an earlier run left there.
        keep: leave the private home when all rounds are done.
    Raises: Conflict while another run is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return _check(settings, run, folder, fresh=fresh, keep=keep, say=say)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two runs would kill each other's servers, and both would find differences."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / "run.lock", timeout=0))
        except Timeout:
            raise Conflict(
                "another run of `pagoda check kill` is at work here",
                where=str(folder),
                next_step="Wait for its end, or name another folder with --home.",
            ) from None
        yield


def _check(
    settings: Settings, run: Run, folder: Path, *, fresh: bool, keep: bool, say: Say
) -> dict[str, Any]:
    home = folder / "home"
    if fresh:
        _forget(folder)
        if home.exists():
            servers.down(load(home=home))
            remove(home)
    journal, ledger = Journal(folder, run), Ledger(folder / "sent.jsonl")
    left = plan(rounds=run.rounds, seed=run.seed, only=run.only)[len(journal.rounds) :]
    if left:
        with world(home, jars=settings.jars) as private:
            perform(private, left, journal, ledger, total=run.rounds, say=say)
    report = summary(run, journal.rounds)
    (folder / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    (folder / "report.md").write_text(as_markdown(report))
    if not keep:
        remove(home)
        _forget(folder)
    return report


def perform(
    private: World,
    rounds: Iterable[Round],
    journal: Journal,
    ledger: Ledger,
    *,
    total: int,
    say: Say,
) -> None:
    """Do these rounds and note each."""
    attempt = f"t{time.time_ns() // 1_000_000_000}"  # an interrupted round begins under new ids
    ready_for = ""
    for each in rounds:
        say(each, total, len(journal.known))
        began = time.monotonic()
        if each.kind != ready_for:
            kind = KINDS[each.kind]
            private = private.up(kind.needs, rewind_s=kind.rewind_s)
            if "kafka" in kind.needs:
                ledger.catch_up(private.settings)
        try:
            outcome = _round(each, attempt, private, ledger)
        except PagodaError as error:
            outcome = Outcome()
            outcome.differences.append(
                Difference(where="round", key="", expected="its end", found=str(error)[:2_000])
            )
        stands = each.kind in _LEAVE_SERVERS_UP and not outcome.differences
        ready_for = each.kind if stands else ""
        known = journal.known
        journal.add(
            {
                "number": each.number,
                "kind": each.kind,
                "instant": each.instant,
                "kills": outcome.kills,
                "messages": outcome.messages,
                "note": outcome.note,
                "seconds": round(time.monotonic() - began, 1),
                "differences": [
                    asdict(found)
                    for found in outcome.differences
                    if (found.where, found.key) not in known
                ],
            }
        )


def summary(run: Run, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts by kind and instant, and every difference with its round."""
    kinds = {}
    for kind in KINDS:
        of_kind = [each for each in rounds if each["kind"] == kind]
        if of_kind:
            kinds[kind] = {
                "rounds": len(of_kind),
                "kills": sum(each["kills"] for each in of_kind),
                "instants": dict(Counter(each["instant"] for each in of_kind)),
                "not_killed": sum(not each["kills"] for each in of_kind),
                "messages": sum(each["messages"] for each in of_kind),
                "seconds": round(sum(each["seconds"] for each in of_kind)),
                "differences": sum(len(each["differences"]) for each in of_kind),
            }
    return {
        **asdict(run),
        "done": len(rounds),
        "kills": sum(each["kills"] for each in rounds),
        "kinds": kinds,
        "notes": [{**_head(each), "note": each["note"]} for each in rounds if each["note"]],
        "differences": [
            {**_head(each), **found} for each in rounds for found in each["differences"]
        ],
    }


def as_markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        "# kill -9",
        "",
        f"{report['done']} of {report['rounds']} rounds, {report['kills']} kills, "
        f"{len(report['differences'])} differences; seed {report['seed']}. Messages are made up.",
        "",
        "| kind | rounds | kills | messages | seconds | differences |",
        "|---|---|---|---|---|---|",
    ]
    for kind, of in report["kinds"].items():
        cells = (of[name] for name in ("rounds", "kills", "messages", "seconds", "differences"))
        lines.append(f"| {kind} | " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| kind | instant | rounds |", "|---|---|---|"]
    for kind, of in report["kinds"].items():
        lines += [f"| {kind} | {instant} | {n} |" for instant, n in of["instants"].items()]
    if report["notes"]:
        lines += ["", "| round | kind | instant | note |", "|---|---|---|---|"]
        lines += ["| {round} | {kind} | {instant} | {note} |".format(**n) for n in report["notes"]]
    for each in report["differences"]:
        lines += ["", f"* round {each['round']}, {each['kind']} {each['instant']}: {each['where']}"]
        lines += [f"  {each['key']}: expected {each['expected']}, found {each['found']}"]
    return "\n".join(lines) + "\n"


def _round(each: Round, attempt: str, private: World, ledger: Ledger) -> Outcome:
    if each.kind == "index":
        return vectors.run(each, attempt, private)
    if each.kind == "scheduler":
        return scheduling.run(each, attempt, private, ledger)
    if each.kind in ("batch", "materialise"):
        return batches.run(each, attempt, private, ledger)
    return streams.run(each, attempt, private, ledger)


def _head(entry: dict[str, Any]) -> dict[str, Any]:
    return {"round": entry["number"], "kind": entry["kind"], "instant": entry["instant"]}


def _run_of(head: dict[str, Any]) -> Run:
    return Run(rounds=head["rounds"], seed=head["seed"], only=tuple(head["only"]))


def _forget(folder: Path) -> None:
    """What belongs to one run; reports stay."""
    for name in ("journal.jsonl", "sent.jsonl"):
        (folder / name).unlink(missing_ok=True)
