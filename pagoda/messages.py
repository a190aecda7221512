"""What travels through Kafka: JSON messages in, checked dataclasses out, or why not.

    behaviour-events  Event        keyed by user_id
    search-events     Search       keyed by user_id
    item-updates      ItemUpdate   keyed by item_id

A message says its `schema`; versions up to today's stay readable, fields it has beyond them are
ignored. A later one is rejected with its bytes, and sent again once the code can read it
(`pagoda stream retry-rejected`); docs/add-a-feature.md says how a field is added. A record's age is
judged at the moment Kafka took it (LogAppendTime), so that every reader accepts and rejects the
same records, whenever it reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.dataclasses import dataclass as checked_dataclass

from pagoda.ids import key_of

SCHEMA = 1
MAX_MESSAGE_BYTES = 128 * 1024
FUTURE_TOLERANCE_MS = 5 * 60_000
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
# Users and items come again and again, events do not.
_repeated_key = lru_cache(maxsize=32_768)(key_of)
_EARLIEST_MS = (_EARLIEST - _EPOCH) // _MS


def _to_ms(value: object) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is not an ISO-8601 time") from None
        if moment.tzinfo is None:
            raise ValueError("has no zone: write 2026-01-31T12:00:00Z")
        return (moment - _EPOCH) // _MS
    if isinstance(value, float):
        return int(value)
    raise ValueError("should be epoch milliseconds or an ISO-8601 time with zone")


def _plausible(value: int, info: ValidationInfo) -> int:
    if value < _EARLIEST_MS:
        raise ValueError("lies before the year 2000: are these seconds, not milliseconds?")
    now_ms = (info.context or {}).get("now_ms")
    if now_ms is not None and value > now_ms + FUTURE_TOLERANCE_MS:
        raise ValueError(f"lies {value - now_ms} ms in the future")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is blank")
    return value


Id = Annotated[
    str, Field(strict=True, min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Text = Annotated[str, Field(strict=True, max_length=1000)]
Query = Annotated[str, Field(strict=True, max_length=1000), AfterValidator(_not_blank)]
Moment = Annotated[int, BeforeValidator(_to_ms), AfterValidator(_plausible)]
Action = Literal["impression", "click", "collect", "cart", "buy"]
_CONFIG = ConfigDict(extra="ignore", allow_inf_nan=False)


@checked_dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Event:
    """What a user did with an item; `ts` in epoch milliseconds."""

    event_id: Id
    user_id: Id
    item_id: Id
    action: Action
    ts: Moment
    search_id: Id | None = None
    position: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    shop: Text | None = None

    @property
    def user_key(self) -> int:
        """The key of the user."""
        return _repeated_key("user", self.user_id)

    @property
    def event_key(self) -> int:
        """The key that orders events of one millisecond."""
        return key_of("event", self.event_id)

    @property
    def item_key(self) -> int:
        """The key of the item."""
        return _repeated_key("item", self.item_id)


@checked_dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Search:
    """What a user asked; `ts` in epoch milliseconds."""

    search_id: Id
    user_id: Id
    query: Query
    ts: Moment

    @property
    def user_key(self) -> int:
        """The key of the user."""
        return _repeated_key("user", self.user_id)

    @property
    def search_key(self) -> int:
        """The key that orders searches of one millisecond."""
        return key_of("search", self.search_id)


@checked_dataclass(frozen=True, kw_only=True, config=_CONFIG)
class ItemUpdate:
    """The whole catalogue row of an item: what is left out becomes null."""

    item_id: Id
    updated_at: Moment
    title: Text | None = None
    brand: Text | None = None
    leaf_category: Text | None = None
    category: Text | None = None
    first_category: Text | None = None
    shop: Text | None = None
    colour: Text | None = None
    size: Text | None = None
    price: Annotated[float, Field(strict=True, ge=0)] | None = None
    in_stock: StrictBool | None = None
    attributes: Annotated[dict[Id, Text], Field(max_length=100)] | None = None

    @property
    def item_key(self) -> int:
        """The key of the item."""
        return _repeated_key("item", self.item_id)


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A record that cannot be read.

    Attributes:
        reason: every problem found, joined by "; ". Holds no values: they are in `raw`.
        raw: the record's value as it came.
    """

    reason: str
    raw: bytes


Message = TypeVar("Message", Event, Search, ItemUpdate)
# A version's function turns its fields into the next version's. The next needs none if it only
# adds optional fields and widens types.
_UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
_EVENT, _SEARCH, _ITEM = TypeAdapter(Event), TypeAdapter(Search), TypeAdapter(ItemUpdate)


def decode_event(raw: bytes | None, *, now_ms: int) -> Event | Rejected:
    """The event in a record of `behaviour-events`.

    Args:
        raw: the record's value; None is a Kafka tombstone.
        now_ms: when Kafka took the record; times much later than this are rejected.
    """
    return _decode(_EVENT, raw, now_ms)


def decode_search(raw: bytes | None, *, now_ms: int) -> Search | Rejected:
    """The search in a record of `search-events`; see `decode_event`."""
    return _decode(_SEARCH, raw, now_ms)


def decode_item(raw: bytes | None, *, now_ms: int) -> ItemUpdate | Rejected:
    """The item in a record of `item-updates`; see `decode_event`."""
    return _decode(_ITEM, raw, now_ms)


def encode(message: Event | Search | ItemUpdate) -> bytes:
    """The record's value, in today's schema."""
    return orjson.dumps({"schema": SCHEMA, **asdict(message)})


def record_key(message: Event | Search | ItemUpdate) -> bytes:
    """The record's key: one user's messages, or one item's, share a partition and its order."""
    owner = message.item_id if isinstance(message, ItemUpdate) else message.user_id
    return owner.encode()


def _decode(adapter: TypeAdapter[Message], raw: bytes | None, now_ms: int) -> Message | Rejected:
    fields = _fields(raw)
    if isinstance(fields, Rejected):
        return fields
    try:
        return adapter.validate_python(fields, context={"now_ms": now_ms})
    except ValidationError as error:
        return Rejected(reason="; ".join(_problem(each) for each in error.errors()), raw=raw or b"")


def _fields(raw: bytes | None) -> dict[str, Any] | Rejected:
    """The message's fields in today's schema."""
    if not raw:
        return Rejected(reason="empty message", raw=b"")
    if len(raw) > MAX_MESSAGE_BYTES:
        return Rejected(reason=f"oversized: {len(raw)} bytes, at most {MAX_MESSAGE_BYTES}", raw=raw)
    try:
        loaded = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return Rejected(reason=f"not JSON: {error}", raw=raw)
    if not isinstance(loaded, dict):
        return Rejected(reason=f"not a JSON object but {type(loaded).__name__}", raw=raw)
    fields: dict[str, Any] = loaded
    version = fields.get("schema")
    if type(version) is not int or not 1 <= version <= SCHEMA:
        return Rejected(reason=f"schema: should be a version from 1 to {SCHEMA}", raw=raw)
    for older in range(version, SCHEMA):
        fields = _UPGRADES.get(older, dict)(fields)
    return fields


def _problem(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"][:2])
    what = error["msg"].removeprefix("Value error, ")
    return f"{where}: {what}"
