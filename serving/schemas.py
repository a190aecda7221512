"""What goes in and out of the API, with examples: the OpenAPI document is made from this."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from pagoda import messages
from pagoda.filters import Filters

Relevance = Literal["filter", "post_filter", "off"]
# Unless empty, as in the message that a search becomes: what is answered can be published.
Query = Annotated[messages.Text, AfterValidator(str.strip)]
UserId = Annotated[
    messages.Id, Field(description="The user's id as in the events.", examples=["1364"])
]

_FILTERS_EXAMPLE = {"brand": ["69"], "price": {"max": 5}}


class _In(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Out(BaseModel):
    model_config = ConfigDict(frozen=True)


# Requests -----------------------------------------------------------------------------------------


class EmbedRequest(_In):
    """A user and a query, for a vector to search Milvus with."""

    query: Query = Field(
        default="",
        description="Needed where the live bundle's model reads queries, refused where it reads "
        "none: `reads_queries` of `/ready`.",
        examples=["fluid milk"],
    )
    user_id: UserId | None = Field(
        default=None, description="Left out or unknown: the vector is not personalised."
    )


class SearchRequest(EmbedRequest):
    """A search."""

    k: int = Field(default=20, ge=1, description="How many results at most.", examples=[20])
    filters: Filters = Field(
        default=Filters(),
        description="Results satisfy every field given, by any of its values.",
        examples=[_FILTERS_EXAMPLE],
    )
    relevance: Relevance | None = Field(
        default=None,
        description="What brand and category terms in the query do: `filter` inside the search, "
        "`post_filter` on its results, `off`. Default: the service's setting.",
    )
    explain: bool = Field(default=False, description="Add what the answer was made from.")


def search_request(max_k: int) -> type[SearchRequest]:
    """SearchRequest with the service's own limit, which is a setting, on k."""
    field = SearchRequest.model_fields["k"]
    limited = Field(
        default=field.default, ge=1, le=max_k, description=field.description, examples=[20]
    )
    model: type[SearchRequest] = create_model(
        "SearchRequest", __base__=SearchRequest, __doc__=SearchRequest.__doc__, k=(int, limited)
    )
    return model


# Answers ------------------------------------------------------------------------------------------


class Term(_Out):
    """Words of the query that name values of item fields."""

    phrase: str = Field(examples=["fluid milk"])
    fields: dict[str, list[str]] = Field(examples=[{"leaf_category": ["FLUID MILK"]}])
    applied: bool = Field(
        description="False where relevance control is off or it would have left too few items."
    )


class Item(_Out):
    """An item's fields; null where the catalogue has none."""

    item_id: str = Field(examples=["1029743"])
    title: str | None = Field(examples=["FLUID MILK PRODUCTS FLUID MILK WHITE ONLY 1 GA"])
    brand: str | None
    leaf_category: str | None
    category: str | None
    first_category: str | None
    shop: str | None
    colour: str | None
    price: float | None
    in_stock: bool | None


class Result(Item):
    """An item that was found."""

    score: float = Field(description="Inner product of the user's and the item's vector.")
    terms: list[str] = Field(description="Phrases of the query's terms that the item satisfies.")


class Explanation(_Out):
    """What an answer was made from."""

    expressions: list[str] = Field(
        description="The filters as Milvus got them; the results of a later one fill up."
    )
    matches: int = Field(description="Items of the catalogue that satisfy filters and terms.")
    windows: dict[str, int] = Field(
        description="How many events of each sequence the user tower saw.",
        examples=[{"real_time": 50, "short_term": 12, "queries": 20}],
    )


class SearchAnswer(_Out):
    """Results, best first, and how they came to be.

    Where the terms of the query leave too few items (`fell_back`), those come first, and the best
    of the others fill up behind them.
    """

    search_id: str = Field(description="Send it with the clicks on these results.")
    at: datetime
    bundle: str
    collection: str
    personalised: bool = Field(description="Whether any behaviour of the user was known.")
    relevance: Relevance
    fell_back: bool = Field(description="Whether terms were dropped because of too few matches.")
    terms: list[Term]
    results: list[Result]
    timings_ms: dict[str, float] = Field(
        examples=[
            {"features": 0.6, "tower": 3.1, "terms": 0.1, "index": 3.4, "items": 0.5, "total": 7.9}
        ]
    )
    explanation: Explanation | None = None


class EmbedAnswer(_Out):
    """A vector and where it belongs."""

    vector: list[float] = Field(description="float32; search with metric IP.")
    collection: str = Field(description="Search this collection: the alias may have moved on.")
    bundle: str
    at: datetime
    personalised: bool
    timings_ms: dict[str, float]


class Seen(Item):
    """An item of a sequence, and when; every field is null where the bundle does not know it."""

    item_id: str | None  # type: ignore[assignment]
    at: datetime


class Asked(_Out):
    """A query of the user."""

    query: str
    at: datetime


class Sequences(_Out):
    """What the towers would see of a user now, newest first."""

    user_id: str
    at: datetime
    bundle: str
    known: bool = Field(description="Whether any behaviour of the user is known.")
    real_time: list[Seen]
    short_term: list[Seen]
    long_term: dict[str, list[Seen]]
    queries: list[Asked]


class ExampleUser(_Out):
    """A recently active user."""

    user_id: str
    events: int


class Dependency(_Out):
    """One thing that the service needs."""

    ok: bool
    needed: bool = Field(description="Whether searches fail without it.")
    detail: str


class Readiness(_Out):
    """Whether searches can be answered."""

    ready: bool
    bundle: str | None
    reads_queries: bool | None = Field(
        description="Whether searches must have a query; if false, they must have none. Null "
        "without a bundle."
    )
    dependencies: dict[str, Dependency]


class Health(_Out):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Problem(_Out):
    """One thing wrong with a request."""

    where: str = Field(examples=["filters.size"])
    what: str = Field(examples=["there is no such field"])


class Refusal(_Out):
    """Why there is no answer."""

    error: Literal["invalid_request", "too_large", "dependency_down", "not_found", "failed"]
    message: str = Field(examples=["redis does not answer: Connection refused."])
    dependency: str | None = Field(default=None, examples=["redis"])
    problems: list[Problem] = []


def refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's description of answers that refuse."""
    meaning = {
        413: "The body is too large.",
        422: "The request cannot be used; every problem is listed.",
        503: "A dependency does not answer; `dependency` names it. Try again.",
    }
    return {status: {"model": Refusal, "description": meaning[status]} for status in statuses}
