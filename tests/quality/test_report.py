"""The report as a page: whole in itself, and readable in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from jobs.quality.judge import judge
from jobs.quality.report import page
from pagoda.features import VIEWS
from pagoda.settings import Quality
from tests.conftest import artefact
from tests.quality.conftest import Shop

pytestmark = pytest.mark.servers


def test_the_page_names_every_view_and_every_finding(shop: Shop) -> None:
    findings = judge(shop.report, Quality())
    text = page(shop.report, findings, Quality())
    assert all(f"<h2>{view.name}</h2>" in text for view in VIEWS)
    assert all(f"<td>{each.where}</td>" in text for each in findings)
    assert f"{len(findings)} limits exceeded" in text


def test_the_page_loads_nothing(shop: Shop) -> None:
    text = page(shop.report, [], Quality())
    assert not re.findall(r"https?://|src=|href=|@import|url\(|<script", text)


@pytest.mark.browser
def test_the_page_is_seen_whole_in_a_browser(shop: Shop, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "quality.html"
    file.write_text(page(shop.report, judge(shop.report, Quality()), Quality()))
    complaints: list[str] = []
    opened = browser.new_page(viewport={"width": 1300, "height": 900})
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("request", lambda asked: complaints.append(asked.url))
    opened.goto(file.as_uri())
    opened.screenshot(path=artefact("quality.png"), full_page=True)
    figures = opened.locator("svg")
    sizes = [figures.nth(n).bounding_box() for n in range(figures.count())]
    fits = opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    opened.context.close()
    assert complaints == [file.as_uri()]
    assert len(sizes) > 20
    assert all(size and size["width"] > 50 and size["height"] > 20 for size in sizes)
    assert fits
