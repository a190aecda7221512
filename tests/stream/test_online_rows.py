"""Law 2 on the production path: decode, merge and write through Feast into a real Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from feast import FeatureStore
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3 as field_hash
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jobs.stream.click_actions import ClickActions
from jobs.stream.merge import Arrivals
from jobs.stream.metrics import Metrics
from jobs.stream.rejects import RejectedRecord
from jobs.stream.sequences import Consumer
from jobs.stream.source import Record
from jobs.stream.state import OnlineState
from pagoda import online_layout, store
from pagoda.errors import DependencyDown, InputError
from pagoda.features import SEQUENCES_V1, USER_DAY, USER_INTRADAY, Service
from pagoda.ids import key_of
from pagoda.online import OnlineReader, connect
from pagoda.sequences import items
from pagoda.settings import Settings
from pagoda.windows import Candidates, WindowSpec
from tests.oracles import sequences as oracle

pytestmark = pytest.mark.servers
DAY_MS = oracle.DAY_MS
NOW_MS = 1_795_000_000_000
INTRADAY = Service(name="intraday", description="", views=(USER_INTRADAY,))
SPEC = WindowSpec()


@dataclass
class ListSource:
    """Hands out batches; a batch given back comes again."""

    batches: list[list[Record]]
    last: list[Record] = field(default_factory=list)
    commits: int = 0
    rewinds: int = 0

    def poll(self, timeout_s: float) -> list[Record]:  # noqa: ARG002
        self.last = self.batches.pop(0) if self.batches else []
        return self.last

    def commit(self) -> None:
        self.commits += 1

    def give_back(self) -> None:
        self.batches.insert(0, self.last)

    def rewind(self) -> None:
        self.rewinds += 1

    def reread_as(self, read_as: str) -> None: ...

    def lags(self) -> dict[tuple[str, int], int]:
        return {}


@dataclass
class ListSink:
    """Keeps what was rejected."""

    records: list[RejectedRecord] = field(default_factory=list)

    def write(self, records: list[RejectedRecord]) -> None:
        self.records += records


@pytest.fixture(scope="module")
def feature_store(stream_home: Settings) -> FeatureStore:
    return store.open_store(stream_home, offline=False)


@pytest.fixture(scope="module")
def state(stream_home: Settings) -> OnlineState:
    return OnlineState(stream_home, SPEC)


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4().hex}"


def consume(
    settings: Settings,
    state: OnlineState,
    batches: list[list[dict[str, Any]]],
    *,
    now_ms: int = NOW_MS,
) -> tuple[ListSource, ListSink]:
    """Run the consumer over batches of messages, as if Kafka took them `now`."""
    kafka = settings.kafka
    records = [
        [
            Record(
                topic=kafka.searches_topic if "query" in message else kafka.events_topic,
                partition=0,
                offset=0,
                taken_ms=now_ms,
                value=orjson.dumps({"schema": 1, **message}),
            )
            for message in batch
        ]
        for batch in batches
    ]
    source, sink = ListSource(records), ListSink()
    consumer = consumer_of(settings, state, source, sink, now_ms=now_ms)
    while source.batches:
        consumer.step()
    return source, sink


def consumer_of(
    settings: Settings,
    state: OnlineState,
    source: ListSource,
    sink: ListSink,
    *,
    now_ms: int = NOW_MS,
) -> Consumer:
    return Consumer(
        settings=settings,
        source=source,
        state=state,
        rejects=sink,
        clock_ms=lambda: now_ms,
        click_actions=ClickActions(settings),
        metrics=Metrics(),
    )


def online(settings: Settings, user: str, now_ms: int = NOW_MS) -> dict[str, Any] | None:
    row = OnlineReader(settings, INTRADAY).read(key_of("user", user), now_ms)[USER_INTRADAY.name]
    return None if row is None else online_layout.plain(row)


def click(user: str, number: int, ts: int, action: str = "click") -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "user_id": user,
        "item_id": f"i{number % 7}",
        "action": action,
        "ts": ts,
    }


def search(user: str, number: int, ts: int) -> dict[str, Any]:
    return {"search_id": f"s{number}", "user_id": user, "query": f"words {number}", "ts": ts}


# Times from before the stream's days to a clock that is fast; few values, so that many coincide.
times = st.sampled_from(
    [NOW_MS + each for each in (-5 * DAY_MS, -3 * DAY_MS, -DAY_MS, -2, -1, 0, 1, 60_000)]
)
messages = st.lists(
    st.tuples(st.integers(0, 12), times, st.sampled_from(["click", "buy", "search"])), max_size=40
)


@given(sent=messages, order=st.randoms(use_true_random=False), cuts=st.integers(1, 6))
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_order_duplication_and_batching_gives_the_naive_state(
    stream_home: Settings,
    state: OnlineState,
    sent: list[tuple[int, int, str]],
    order: Any,
    cuts: int,
) -> None:
    user = f"user-{uuid.uuid4().hex}"
    each = [
        search(user, number, ts) if what == "search" else click(user, number, ts, what)
        for number, ts, what in sent
    ]
    arriving = each + each[: len(each) // 2]
    order.shuffle(arriving)
    consume(stream_home, state, [arriving[at::cuts] for at in range(cuts)])
    expected = oracle.online_rows(each, now_ms=NOW_MS).get(user)
    assert online(stream_home, user) == expected


def test_the_caps_hold_and_a_fast_clock_pushes_nothing_out(
    stream_home: Settings, state: OnlineState, user: str
) -> None:
    sent = [click(user, number, NOW_MS - 1000 + number) for number in range(170)]
    sent += [click(user, 1000 + number, NOW_MS + 1000 + number) for number in range(5)]
    sent += [search(user, number, NOW_MS - 1000 + number) for number in range(30)]
    consume(stream_home, state, [sent[::2], sent[1::2]])
    row = online(stream_home, user)
    assert row == oracle.online_rows(sent, now_ms=NOW_MS)[user]
    assert row is not None
    assert len(row["click_ts"]) == 150 + 5
    assert len(row["query_ts"]) == 20


def test_days_that_the_batch_has_taken_over_leave_the_row(
    stream_home: Settings, state: OnlineState, user: str
) -> None:
    old, new = click(user, 1, NOW_MS), click(user, 2, NOW_MS + 4 * DAY_MS)
    consume(stream_home, state, [[old]], now_ms=NOW_MS)
    consume(stream_home, state, [[new]], now_ms=NOW_MS + 4 * DAY_MS)
    row = online(stream_home, user, NOW_MS + 4 * DAY_MS)
    assert row == oracle.online_rows([old, new], now_ms=NOW_MS + 4 * DAY_MS)[user]


def test_a_replay_writes_nothing(stream_home: Settings, state: OnlineState, user: str) -> None:
    sent = [click(user, number, NOW_MS - number) for number in range(5)]
    key = OnlineReader(stream_home, INTRADAY).redis_key(key_of("user", user))
    consume(stream_home, state, [sent])
    with connect(stream_home) as client:
        before = client.hgetall(key)
        consume(stream_home, state, [sent[::-1], sent[:2]], now_ms=NOW_MS + 5)
        assert client.hgetall(key) == before


def test_a_row_steps_forward_in_time_although_the_clock_does_not(
    stream_home: Settings, state: OnlineState, user: str
) -> None:
    consume(stream_home, state, [[click(user, 1, NOW_MS)], [click(user, 2, NOW_MS)]])
    consume(stream_home, state, [[click(user, 3, NOW_MS - 10)]], now_ms=NOW_MS - 5)
    (row,) = OnlineReader(stream_home, INTRADAY).read_stamped([key_of("user", user)])
    stamped = row[USER_INTRADAY.name]
    assert stamped is not None
    assert stamped.valid_from_ms == NOW_MS + 2
    assert len(stamped.values["click_ts"]) == 3


def test_records_that_cannot_be_read_are_rejected_and_committed(
    stream_home: Settings, state: OnlineState, user: str
) -> None:
    good, bad = click(user, 1, NOW_MS), click(user, 2, NOW_MS + DAY_MS)
    source, sink = consume(stream_home, state, [[bad, good]])
    assert online(stream_home, user) == oracle.online_rows([good], now_ms=NOW_MS)[user]
    assert [each.rejected.reason for each in sink.records] == [
        f"ts: lies {DAY_MS} ms in the future"
    ]
    assert source.commits == 1


def test_a_writer_that_slept_undoes_nobody_elses_work(
    stream_home: Settings, state: OnlineState, user: str
) -> None:
    key, sleeper = key_of("user", user), OnlineState(stream_home, SPEC)
    (read,) = sleeper.read([key])
    clicked = Arrivals(clicks=[(NOW_MS, 1, 1)])
    assert state.merge({key: clicked}, now_ms=NOW_MS) == 1
    mine = Candidates(clicks=items([NOW_MS], [2], [2]))
    assert sleeper.swap([(read, mine)], now_ms=NOW_MS) == [False]
    assert sleeper.merge({key: Arrivals(clicks=[(NOW_MS, 2, 2)])}, now_ms=NOW_MS) == 1
    row = online(stream_home, user)
    assert row is not None
    assert row["click_events"] == [1, 2]


def test_a_row_written_between_reading_and_writing_is_read_again(
    stream_home: Settings, state: OnlineState, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = key_of("user", user), OnlineState(stream_home, SPEC)
    events = iter(range(1, 4))

    def meanwhile(point: str) -> None:
        if point == "sequences.read" and (event := next(events, None)):
            monkeypatch.undo()
            other.merge({key: Arrivals(clicks=[(NOW_MS, event, event)])}, now_ms=NOW_MS)
            monkeypatch.setattr("pagoda.faults.point", meanwhile)

    monkeypatch.setattr("pagoda.faults.point", meanwhile)
    assert state.merge({key: Arrivals(clicks=[(NOW_MS, 9, 9)])}, now_ms=NOW_MS) == 1
    row = online(stream_home, user)
    assert row is not None
    assert row["click_events"] == [1, 2, 3, 9]


def test_a_connection_made_anew_means_that_writes_may_be_lost(
    stream_home: Settings, user: str
) -> None:
    state = OnlineState(stream_home, SPEC)
    state.ping()
    with connect(stream_home) as client:
        client.client_kill_filter(_id=str(state._line.call("CLIENT", "ID")))
    record = Record(
        topic=stream_home.kafka.events_topic,
        partition=0,
        offset=0,
        taken_ms=NOW_MS,
        value=orjson.dumps({"schema": 1, **click(user, 1, NOW_MS, "impression")}),
    )
    source = ListSource([[record]])
    consumer = consumer_of(stream_home, state, source, ListSink())
    with pytest.raises(DependencyDown, match="redis"):
        consumer.step()
    assert (source.rewinds, source.commits, len(source.batches)) == (1, 0, 1)
    assert consumer.step() == 1
    assert (source.rewinds, source.commits, len(source.batches)) == (1, 1, 0)


@pytest.mark.parametrize("how", ["cut short", "a column is missing", "the time is rubbish"])
def test_a_damaged_row_does_not_stop_the_stream(
    stream_home: Settings, state: OnlineState, user: str, how: str
) -> None:
    consume(stream_home, state, [[click(user, 1, NOW_MS)]])
    damage(stream_home, user, how)
    if how != "a column is missing":
        with pytest.raises(InputError, match="cannot be decoded"):
            online(stream_home, user)
    again = [click(user, 1, NOW_MS), click(user, 2, NOW_MS)]
    consume(stream_home, state, [again])
    assert online(stream_home, user) == oracle.online_rows(again, now_ms=NOW_MS)[user]


def damage(settings: Settings, user: str, how: str) -> None:
    reader, names = OnlineReader(settings, INTRADAY), online_layout.fields(USER_INTRADAY)
    click_events, stamp = names[1], names[-1]
    with connect(settings) as client:
        key = reader.redis_key(key_of("user", user))
        if how == "a column is missing":
            client.hdel(key, click_events)
        else:
            name = click_events if how == "cut short" else stamp
            client.hset(key, name, (client.hget(key, name) or b"")[:-1])


# The reader -------------------------------------------------------------------------------------


def test_keys_fields_and_values_are_feasts_own() -> None:
    for key in (0, 1, -1, 2**63 - 1):
        theirs = serialize_entity_key(
            EntityKey(join_keys=["user_key"], entity_values=[Value(int64_val=key)]),
            entity_key_serialization_version=3,
        )
        keys = online_layout.Keys("user_key")
        assert keys.of(key) == theirs + b"pagoda"
        assert keys.entity_of(keys.of(key)) == key
        assert online_layout.Keys("item_key").entity_of(keys.of(key)) is None
    *columns, stamp = online_layout.fields(USER_INTRADAY)
    assert columns == [field_hash(f"user_intraday:{name}") for name in USER_INTRADAY.columns]
    assert stamp == b"_ts:user_intraday"
    assert online_layout.Value is Value


def test_the_reader_gives_what_feast_gives(
    stream_home: Settings, state: OnlineState, feature_store: FeatureStore, user: str
) -> None:
    sent = [*(click(user, number, NOW_MS - number) for number in range(9)), search(user, 1, NOW_MS)]
    consume(stream_home, state, [sent])
    only_query = f"{user}-query"
    consume(stream_home, state, [[search(only_query, 1, NOW_MS)]])
    keys = [key_of("user", each) for each in (user, only_query, "nobody")]
    columns = [f"{USER_INTRADAY.name}:{column}" for column in USER_INTRADAY.columns]
    theirs = feature_store.get_online_features(
        features=columns, entity_rows=[{"user_key": key} for key in keys]
    ).to_dict()
    reader = OnlineReader(stream_home, SEQUENCES_V1)
    for number, rows in enumerate(reader.read_many(keys, NOW_MS)):
        expected = {column: theirs[column][number] for column in USER_INTRADAY.columns}
        for read in (rows, reader.read(keys[number], NOW_MS)):
            row = read[USER_INTRADAY.name] or dict.fromkeys(USER_INTRADAY.columns)
            assert online_layout.plain(row) == expected


def test_the_reader_tells_absence_and_age_which_feast_does_not(
    stream_home: Settings, state: OnlineState, user: str
) -> None:
    consume(stream_home, state, [[click(user, 1, NOW_MS)]])
    reader, key = OnlineReader(stream_home, SEQUENCES_V1), key_of("user", user)
    assert reader.read(key_of("user", "nobody"), NOW_MS) == {
        USER_DAY.name: None,
        USER_INTRADAY.name: None,
    }
    assert USER_INTRADAY.ttl_days is not None
    ttl_ms = USER_INTRADAY.ttl_days * DAY_MS
    assert reader.read(key, NOW_MS + ttl_ms)[USER_INTRADAY.name] is not None
    assert reader.read(key, NOW_MS + ttl_ms + 1)[USER_INTRADAY.name] is None


def test_a_dead_redis_is_named_soon(stream_home: Settings) -> None:
    gone = stream_home.model_copy(
        update={"redis": stream_home.redis.model_copy(update={"port": 1})}
    )
    started = time.monotonic()
    with pytest.raises(DependencyDown) as failed:
        OnlineReader(gone, SEQUENCES_V1).read(1, NOW_MS)
    assert failed.value.name == "redis"
    assert time.monotonic() - started < 5


@pytest.fixture(scope="module", autouse=True)
def _clean(stream_home: Settings) -> Iterator[None]:
    """Leave no row of a made-up time behind for those who look at all users."""
    with connect(stream_home) as client:
        before = set(client.scan_iter(count=10_000))
        yield
        made = [key for key in client.scan_iter(count=10_000) if key not in before]
        if made:
            client.delete(*made)
