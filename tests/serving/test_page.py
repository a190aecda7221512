"""The search page in a real browser: type, filter, see results. Screenshots go to artefacts/."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import artefact
from tests.training import toy

pytestmark = [pytest.mark.servers, pytest.mark.browser]


@pytest.fixture
def complaints() -> list[str]:
    """What went wrong in the browser: script errors, and addresses that refused."""
    return []


@pytest.fixture
def page(url: str, browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """The page, opened; a script error or an answer that nobody expected fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("response", lambda answer: answer.ok or complaints.append(answer.url))
    opened.goto(url)
    yield opened
    opened.context.close()
    assert complaints == []


def _search(page: Page, query: str, user: str = "") -> None:
    page.get_by_label("as user").fill(user)
    page.get_by_label("Search for").fill(query)
    page.get_by_role("button", name="Search", exact=True).click()


def test_a_person_types_filters_and_sees_results(page: Page) -> None:
    expect(page.locator("#serving")).to_have_text("bundle serve_a")
    _search(page, "milk", "alice")
    expect(page.locator("#items > li")).to_have_count(10)
    expect(page.locator("#summary")).to_contain_text("personalised for alice")
    expect(page.locator("#terms")).to_contain_text("“milk” is a leaf category or category ✓")
    expect(page.locator("#timings dl")).to_contain_text("tower")
    expect(page.locator("[data-name=real_time] .count")).to_have_text("50")
    page.screenshot(path=artefact("search-page.png"), full_page=True)

    page.get_by_label("Value").fill(toy.BRANDS[0])
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#chips")).to_contain_text("brand: acme")
    expect(page.locator("#items > li")).not_to_have_count(10)
    for shown in page.locator("#items .tags").all_inner_texts():
        assert "acme" in shown
    page.screenshot(path=artefact("search-page-filtered.png"), full_page=True)

    page.get_by_role("button", name="remove brand: acme").click()
    expect(page.locator("#items > li")).to_have_count(10)


def test_a_brand_full_of_quotes_is_one_click_away(page: Page) -> None:
    nasty = toy.BRANDS[3]
    _search(page, "milk")
    page.get_by_role("button", name=f"filter by brand {nasty}").first.click()
    expect(page.locator("#chips")).to_contain_text(f"brand: {nasty}")
    expect(page.locator("#items .title").first).to_have_text(re.compile("Milk"))


def test_what_is_wrong_is_said_on_the_page(page: Page, complaints: list[str]) -> None:
    page.get_by_label("Price from").fill("5")
    page.get_by_label("to", exact=True).fill("1")
    _search(page, "milk")
    expect(page.get_by_role("alert")).to_contain_text("min 5.0 lies above max 1.0")
    assert [each.rsplit("/", 1)[1] for each in complaints] == ["search"]
    complaints.clear()
    page.get_by_label("to", exact=True).fill("")
    _search(page, "milk")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_an_address_with_a_query_shows_its_answer(page: Page, url: str) -> None:
    page.goto(f"{url}/?q=soap&user=bob")
    expect(page.locator("#items > li").first).to_contain_text("Soap")
    expect(page.get_by_label("as user")).to_have_value("bob")


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    page.get_by_label("Search for").focus()
    page.keyboard.type("cheese")
    page.keyboard.press("Enter")
    expect(page.locator("#items > li").first).to_contain_text("Cheese")


def test_a_narrow_screen_scrolls_in_one_direction_only(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    _search(page, "milk", "alice")
    expect(page.locator("#items > li")).to_have_count(10)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
