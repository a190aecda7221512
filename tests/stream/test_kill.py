"""The kill -9 harness in short: a few kills at chosen instants, and that it would see a loss."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from jobs.checks.kill import compare, harness
from jobs.checks.kill.harness import Journal, Run, as_markdown, perform, summary
from jobs.checks.kill.ledger import Ledger
from jobs.checks.kill.plan import KINDS, LOSING_IDLE, Round, plan
from jobs.checks.kill.world import remove, world
from pagoda import lake, servers
from pagoda.errors import Conflict, InputError
from pagoda.online import OnlineReader, connect
from pagoda.schemas import SEARCHES
from pagoda.servers import leftovers
from pagoda.settings import Settings

INSTANTS = (
    ("consumer", "sequences.read"),
    ("consumer", "sequences.written"),
    ("redis", LOSING_IDLE),
    ("landing", "landing.committed"),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as made:
        yield Path(made)


def rounds(*instants: tuple[str, str]) -> list[Round]:
    return [
        Round(number=number, kind=kind, instant=instant, seed=7)
        for number, (kind, instant) in enumerate(instants, start=1)
    ]


@pytest.mark.servers
@pytest.mark.spark
def test_kills_lose_and_double_nothing_and_a_loss_would_be_seen(
    settings: Settings, folder: Path
) -> None:
    run = Run(rounds=len(INSTANTS), seed=7)
    journal, sent = Journal(folder, run), folder / "sent.jsonl"
    *first, last = rounds(*INSTANTS)
    with world(folder / "home", jars=settings.jars) as private:
        perform(private, first, journal, Ledger(sent), total=run.rounds, say=lambda *_: None)
        # Cut short after it had sent: what the ledger lacks, the topics know.
        lines = sent.read_bytes().splitlines(keepends=True)
        sent.write_bytes(b"".join(lines[:-50]))
        ledger = Ledger(sent)
        perform(private, [last], journal, ledger, total=run.rounds, say=lambda *_: None)
        assert set(sent.read_bytes().splitlines(keepends=True)) >= set(lines)

        report = summary(run, journal.rounds)
        assert (report["kills"], report["differences"]) == (len(INSTANTS), [])
        assert all(each["messages"] > 0 for each in journal.rounds)

        up = private.up(KINDS["landing"].needs).settings
        oracle = ledger.oracle(up)
        servers.down(up, ["sequences", "landing"])
        lost = _lose(up, min(oracle.online(now_ms=time.time_ns() // 1_000_000)))
        doubled = _double(up)
        assert [each.key for each in compare.sequences(up, oracle)] == [str(lost)]
        (found,) = compare.tables(up, oracle)
        assert (found.where, found.key, found.found) == ("lake:searches", doubled, "2 times")
    assert leftovers.of(folder / "home") == {}


def _lose(settings: Settings, user: int) -> int:
    """Take a user's row away."""
    with connect(settings) as client:
        assert client.delete(OnlineReader(settings, compare.INTRADAY).redis_key(user)) == 1
    return user


def _double(settings: Settings) -> str:
    """Let a row stand twice; returns its source."""
    table = lake.open_table(settings, SEARCHES)
    row = table.scan(limit=1).to_arrow()
    table.append(row)
    return str(row["source"][0])


def test_a_release_run_has_the_rounds_it_promises_and_every_instant() -> None:
    made = plan(rounds=300, seed=0)
    assert Counter(each.kind for each in made) == {
        "consumer": 200,
        "redis": 40,
        "broker": 20,
        "landing": 20,
        **dict.fromkeys(("batch", "materialise", "index", "scheduler"), 5),
    }
    assert [each.number for each in made] == list(range(1, 301))
    assert plan(rounds=300, seed=0) == made
    for name in ("consumer", "redis", "broker", "landing", "batch", "materialise", "scheduler"):
        done = {each.instant for each in made if each.kind == name}
        assert done == set(KINDS[name].instants)
    assert {each.kind for each in plan(rounds=3, seed=0, only=["redis"])} == {"redis"}
    with pytest.raises(InputError, match="teapot"):
        plan(rounds=3, seed=0, only=["teapot"])


def test_a_run_goes_on_where_it_stopped_and_another_one_is_refused(folder: Path) -> None:
    entry = {"number": 1, "kind": "redis", "instant": "at random", "kills": 1, "messages": 9}
    lost = {"where": "online", "key": "7", "expected": "x", "found": None}
    entry |= {"note": "1 byte lost", "seconds": 1.0, "differences": [lost]}
    run = Run(rounds=2, seed=1, only=("redis",))
    Journal(folder, run).add(entry)
    again = Journal(folder, run)
    assert again.rounds == [entry]
    assert again.known == {("online", "7")}
    assert "1 byte lost" in as_markdown(summary(run, again.rounds))
    with pytest.raises(InputError, match="--fresh"):
        Journal(folder, Run(rounds=3, seed=1))


def test_a_home_of_somebody_else_is_never_used(settings: Settings, folder: Path) -> None:
    (folder / "settings.toml").write_text("")
    with (
        pytest.raises(InputError, match="not made by"),
        world(folder, jars=settings.jars),
    ):
        pass
    remove(folder)
    assert (folder / "settings.toml").exists()


def test_two_runs_in_one_folder_would_kill_each_others_servers(
    settings: Settings, folder: Path
) -> None:
    with (
        FileLock(folder / "run.lock"),
        pytest.raises(Conflict, match="another run"),
    ):
        harness.check(
            settings,
            Run(rounds=1, seed=1),
            folder=folder,
            fresh=True,
            keep=False,
            say=lambda *_: pytest.fail("it began"),
        )
