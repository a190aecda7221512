"""Filters over item fields, and their only way into a Milvus expression.

Values come from people: each is rendered as a JSON string literal, which Milvus reads with the
same escapes, so quotes, backslashes and operators inside a value stay inside it. What an item
lacks is stored as "" (text), NO_PRICE or True (stock): an item without a brand or a price
satisfies no filter on it, and an item of unknown stock counts as in stock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

TEXT_FIELDS = ("brand", "leaf_category", "category", "first_category", "shop", "colour")
NO_PRICE = -1.0
STORED_BYTES = 256
MAX_VALUE_LENGTH = 512
_MAX_VALUES = 200


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not valid text: it holds a lone surrogate") from error
    return value


Value = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_VALUE_LENGTH), AfterValidator(_encodable)
]
Values = Annotated[tuple[Value, ...], Field(max_length=_MAX_VALUES)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PriceRange(BaseModel):
    """A price between two bounds, both inclusive; either may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Price | None = None
    max: Price | None = None

    @model_validator(mode="after")
    def _in_order(self) -> PriceRange:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} lies above max {self.max}")
        return self


class Filters(BaseModel):
    """What results must satisfy: every field that is given, by any of its values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    brand: Values = ()
    leaf_category: Values = ()
    category: Values = ()
    first_category: Values = ()
    shop: Values = ()
    colour: Values = ()
    price: PriceRange | None = None
    in_stock: bool | None = None

    def texts(self) -> dict[str, tuple[str, ...]]:
        """The text fields that are filtered, with their values."""
        return {name: getattr(self, name) for name in TEXT_FIELDS if getattr(self, name)}

    def __bool__(self) -> bool:
        return bool(expression(self))


Clause = Mapping[str, Sequence[str]]
"""Field to values, satisfied by any of them: what one recognised term of a query stands for."""


def expression(filters: Filters, clauses: Sequence[Clause] = ()) -> str:
    """The Milvus expression that all of `filters` and each of `clauses` hold; "" if nothing."""
    parts = [_any_of(field, values) for field, values in filters.texts().items()]
    if filters.price:
        parts += _price(filters.price)
    if filters.in_stock is not None:
        parts.append(f"in_stock == {'true' if filters.in_stock else 'false'}")
    for clause in clauses:
        alternatives = [_any_of(field, values) for field, values in clause.items()]
        parts.append(f"({' or '.join(alternatives)})" if len(alternatives) > 1 else alternatives[0])
    return " and ".join(parts)


def literal(value: str) -> str:
    """A string as Milvus reads it. Raises: ValueError for what has no UTF-8 form."""
    return json.dumps(stored(_encodable(value)), ensure_ascii=False)


def stored(value: str) -> str:
    """A text as the index holds it, of at most STORED_BYTES bytes.

    Milvus's Trie ends a text at its first NUL, so another character stands for it. What is longer
    keeps its beginning and a digest of the whole: any item fits into a collection that is live, and
    Milvus, which sizes segments by the longest text allowed, keeps them large.
    """
    value = value.replace("\0", "\ufffd")
    whole = value.encode()
    if len(whole) <= STORED_BYTES:
        return value
    digest = hashlib.blake2b(whole, digest_size=16).hexdigest()
    return f"{whole[: STORED_BYTES - 35].decode(errors='ignore')}…{digest}"


def _any_of(field: str, values: Sequence[str]) -> str:
    if field not in TEXT_FIELDS:
        raise ValueError(f"no filter on {field!r}; there are {', '.join(TEXT_FIELDS)}")
    return f"{field} in [{', '.join(literal(value) for value in values)}]"


def _price(price: PriceRange) -> list[str]:
    """Bounds; a range without a lower one must still leave out items without a price."""
    lowest = price.min or 0.0
    parts = [f"price >= {lowest!r}"] if price.min is not None or price.max is not None else []
    return parts if price.max is None else [*parts, f"price <= {price.max!r}"]
