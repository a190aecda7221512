from __future__ import annotations

from pathlib import Path

import pytest

from jobs.imports import mapping
from jobs.imports.files import Files
from pagoda.errors import InputError
from tests.imports.conftest import MAPPING


def problems_of(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        mapping.load(path)
    return caught.value.problems


def test_a_correct_mapping_is_read(shop: Path) -> None:
    read = mapping.load(shop / "shop.toml")
    assert read.name == "shop"
    assert list(read.tables()) == ["items", "events", "searches"]


def test_everything_that_is_wrong_with_a_mapping_is_said_at_once(shop: Path) -> None:
    (shop / "shop.toml").write_text(
        """
        name = "My Shop"
        colour = "red"
        [dataset]
        click_actions = ["hover"]
        test_days = 0
        [items]
        files = ["items.csv"]
        columns = { item_id = "sku" }
        time = { zone = "Vienna", format = "soon" }
        [events]
        files = []
        actions = { v = "view" }
        """
    )
    said = "\n".join(problems_of(shop / "shop.toml"))
    for part in (
        "name: String should match pattern",
        "colour: Extra inputs are not permitted",
        "dataset.click_actions: unknown ['hover']; Pagoda knows impression, click",
        "dataset.test_days: Input should be greater than or equal to 1",
        "items.time.format: 'soon' is neither iso, epoch_s, epoch_ms nor a strptime pattern",
        "items.time.zone: unknown time zone 'Vienna'; use an IANA name like Europe/Vienna",
        "events.files: Tuple should have at least 1 item",
        "events.actions: unknown ['view']",
    ):
        assert part in said


def test_missing_unknown_and_contradicting_columns_are_said_at_once(shop: Path) -> None:
    (shop / "shop.toml").write_text(
        """
        name = "shop"
        [items]
        files = ["/data/items.csv"]
        columns = { title = "name", weight = "kg" }
        [events]
        files = ["events.csv"]
        columns = { user_id = "user", action = "what" }
        constants = { action = "buy" }
        attributes = { x = "y" }
        """
    )
    assert problems_of(shop / "shop.toml") == [
        "items: no column and no constant for item_id",
        "items: unknown column weight; known are item_id, title, brand, leaf_category, category, "
        "first_category, shop, colour, size, price, in_stock, updated_at",
        "items: file patterns are relative to the mapping file",
        "events: no column and no constant for item_id",
        "events: no column and no constant for ts",
        "events: action is both a column and a constant",
        "events: only items have attributes",
    ]


def test_times_that_are_an_order_fit_neither_days_nor_searches(shop: Path) -> None:
    order = 'dataset = { times = "order", split = "SPLIT" }\n' + MAPPING
    (shop / "shop.toml").write_text(order.replace("SPLIT", "time"))
    assert problems_of(shop / "shop.toml") == [
        'dataset: times = "order" has no days to split by: split = "leave_last_out"'
    ]
    (shop / "shop.toml").write_text(order.replace("SPLIT", "leave_last_out"))
    assert problems_of(shop / "shop.toml") == [
        'searches: their times cannot be compared with times = "order"'
    ]


def test_what_searches_displayed_needs_searches_that_events_name(shop: Path) -> None:
    displayed = 'dataset = { split = "displayed" }\n' + MAPPING
    (shop / "shop.toml").write_text(displayed)
    assert problems_of(shop / "shop.toml") == [
        'split = "displayed" needs searches, and events that name theirs'
    ]
    named = displayed.replace('event_id = "id"', 'event_id = "id", search_id = "search"')
    (shop / "shop.toml").write_text(named)
    assert mapping.load(shop / "shop.toml").dataset.split == "displayed"
    (shop / "shop.toml").write_text(displayed.replace("split", 'times = "order", split'))
    assert problems_of(shop / "shop.toml") == [
        'dataset: times = "order" has no days to split by: split = "leave_last_out"'
    ]


@pytest.mark.parametrize("text", ["name = ", "\x00", "[items"])
def test_what_is_not_toml_is_refused(shop: Path, text: str) -> None:
    (shop / "shop.toml").write_text(text)
    with pytest.raises(InputError, match="not TOML"):
        mapping.load(shop / "shop.toml")


def test_a_mapping_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: file not found"):
        mapping.load(tmp_path / "none.toml")


def test_all_files_are_compared_with_the_mapping_before_any_row_is_read(
    shop: Path, tmp_path: Path
) -> None:
    (shop / "items.csv").write_text("article,name\n")
    (shop / "events.csv").write_bytes(b"")
    (shop / "shop.toml").write_text(MAPPING.replace("searches.csv", "queries/*.csv"))
    with pytest.raises(InputError) as caught:
        Files(shop / "shop.toml", scratch=tmp_path)
    assert [each.replace(str(shop), "") for each in caught.value.problems] == [
        "items.csv: no column 'sku' for item_id; the file has article, name",
        "items.csv: no column 'brand' for brand; the file has article, name",
        "items.csv: no column 'price' for price; the file has article, name",
        "/events.csv: the file is empty (expected a header line)",
        "searches: no file matches queries/*.csv",
    ]


@pytest.mark.parametrize("pattern", ["", "**.csv"])
def test_what_is_no_file_pattern_is_named(shop: Path, tmp_path: Path, pattern: str) -> None:
    (shop / "shop.toml").write_text(MAPPING.replace("items.csv", pattern))
    with pytest.raises(InputError, match="items: not a file pattern"):
        Files(shop / "shop.toml", scratch=tmp_path)
