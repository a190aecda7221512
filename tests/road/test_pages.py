"""What a person sees in a browser: Airflow's UI and the search page."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.road.conftest import Road

pytestmark = [pytest.mark.browser, pytest.mark.airflow, pytest.mark.servers]


def test_a_dag_triggered_in_airflows_page_turns_green(road: Road, page: Page) -> None:
    page.goto(f"{road.settings.airflow.url}/dags/index")
    page.locator("input[name=username]").fill(road.settings.airflow.user)
    page.locator("input[type=password]").fill(road.settings.airflow_password())
    page.get_by_role("button", name=re.compile("sign in", re.I)).click()
    page.get_by_test_id("trigger-dag-button").click()
    page.get_by_test_id("trigger-dag-submit").click()
    page.goto(f"{road.settings.airflow.url}/dags/index/runs?run_type=manual")
    # The header has a badge too, of the latest run of any type; the one manual run before failed.
    newest = page.locator("table").get_by_test_id("state-badge").first
    expect(newest).to_have_text(re.compile("success", re.I), timeout=90_000)


def test_the_search_page_finds_filters_and_shows_the_users_sequences(
    road: Road, page: Page
) -> None:
    page.goto(str(road.search.base_url))
    expect(page.locator("#serving")).to_contain_text(road.manifest.name)
    page.locator("#examples button").first.click()
    page.locator("#query").fill("soft drinks")
    page.locator("#form button[type=submit]").click()
    items = page.locator("#items li")
    expect(items.first).to_be_visible()
    expect(page.locator("#sequences details").first).to_be_visible()
    brand = items.first.locator(".tags button").first
    value = (brand.text_content() or "").removeprefix("✓ ")
    brand.click()
    expect(page.locator("#chips li")).to_have_count(1)
    expect(page.locator("#summary")).to_contain_text("matching")
    expect(items.filter(has_not_text=value)).to_have_count(0)
    expect(items.first).to_be_visible()
