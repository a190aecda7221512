"""`pagoda search`: ask the running service, as any client would."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import typer

from pagoda import settings as settings_module
from pagoda.console import emit_json, emit_table, people, run
from pagoda.errors import DependencyDown, InputError
from pagoda.settings import Settings

app = typer.Typer(add_completion=False, help="Ask the running search service.")
_TIMEOUT_S = 30
Texts = Annotated[list[str] | None, typer.Option(help="Any of these; may be given again.")]


@app.command()
def main(
    query: Annotated[
        str,
        typer.Argument(
            help="The words to search for; none where the live model reads none.",
            show_default=False,
        ),
    ] = "",
    user: Annotated[
        str | None, typer.Option(help="User id; without one, no personalising.")
    ] = None,
    k: Annotated[int, typer.Option(help="How many results.")] = 10,
    brand: Texts = None,
    leaf_category: Texts = None,
    category: Texts = None,
    first_category: Texts = None,
    shop: Texts = None,
    colour: Texts = None,
    min_price: Annotated[float | None, typer.Option(help="At least this price.")] = None,
    max_price: Annotated[float | None, typer.Option(help="At most this price.")] = None,
    in_stock: Annotated[
        bool | None, typer.Option("--in-stock/--out-of-stock", help="By stock.")
    ] = None,
    relevance: Annotated[
        str | None, typer.Option(help="Terms in the query: filter, post_filter or off.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer as JSON.")] = False,
) -> None:
    """Search the catalogue for words, as a user; or see what is recommended to them."""
    filters: dict[str, Any] = {
        "brand": brand,
        "leaf_category": leaf_category,
        "category": category,
        "first_category": first_category,
        "shop": shop,
        "colour": colour,
        "in_stock": in_stock,
    }
    if min_price is not None or max_price is not None:
        filters["price"] = {"min": min_price, "max": max_price}
    body = {
        "query": query,
        "user_id": user,
        "k": k,
        "relevance": relevance,
        "filters": {name: value for name, value in filters.items() if value not in (None, [])},
    }
    answer = ask(settings_module.load(), body)
    if as_json:
        emit_json(answer)
        return
    _show(answer)


def ask(settings: Settings, body: dict[str, Any]) -> dict[str, Any]:
    """The service's answer to POST /search.

    Raises: DependencyDown naming what does not answer, the service itself included; InputError
        with every problem of the request.
    """
    url = f"http://{settings.serving.host}:{settings.serving.port}/search"
    try:
        response = httpx.post(url, json=body, timeout=_TIMEOUT_S)
    except httpx.TransportError as error:
        raise DependencyDown("serving", f"{url}: {error}") from error
    except UnicodeEncodeError as error:
        raise InputError("the words are not valid text", found=str(error)) from error
    answer: dict[str, Any] = response.json()
    if response.status_code == httpx.codes.OK:
        return answer
    if answer.get("dependency"):
        raise DependencyDown(str(answer["dependency"]), str(answer["message"]))
    raise InputError(
        "the service refused the request",
        problems=[f"{each['where']}: {each['what']}" for each in answer["problems"]]
        or [str(answer["message"])],
    )


def _show(answer: dict[str, Any]) -> None:
    emit_table(
        {
            "score": f"{item['score']:.4f}",
            "item": item["item_id"],
            "title": item["title"],
            "brand": item["brand"],
            "leaf category": item["leaf_category"],
            "price": item["price"],
        }
        for item in answer["results"]
    )
    whose = "personalised" if answer["personalised"] else "not personalised"
    terms = ", ".join(
        f"{term['phrase']} ({' or '.join(term['fields'])})"
        + ("" if term["applied"] else " not applied")
        for term in answer["terms"]
    )
    steps = ", ".join(f"{name} {ms:.1f}" for name, ms in answer["timings_ms"].items())
    people.print(f"{whose}, bundle {answer['bundle']}; {steps} ms", markup=False, highlight=False)
    if terms:
        people.print(f"terms: {terms}", markup=False, highlight=False)


if __name__ == "__main__":
    run(app)
