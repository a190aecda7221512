"""docs/add-a-feature.md, "A statistic", performed while an old model goes on serving.

The shop's days are past ones, so the commands get its days, and materialising its last noon.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import SecretStr

from jobs.batch.materialise import materialise
from pagoda import lake
from pagoda.bundle import Bundle, Request, read_manifest
from pagoda.features import SEQUENCES_STATS_V1, USER_STATS
from pagoda.ids import key_of
from pagoda.models.alpha_dnn import AlphaDnnConfig
from pagoda.online import OnlineReader
from pagoda.settings import Settings
from tests import guide
from tests.training import shop as shops
from tests.training import toy
from tests.training.shop import LAST

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.servers]
USER = "u1"
NOON = datetime(LAST.year, LAST.month, LAST.day, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)
AT_NOON = f"""
from datetime import datetime
from jobs.batch import materialise
class AtNoon(datetime):
    now = classmethod(lambda cls, zone: cls.fromtimestamp({NOON.timestamp()}, zone))
materialise.datetime = AtNoon
"""
EMBED = """
import json, sys
from pathlib import Path
from pagoda.bundle import Bundle, Request
said = json.loads(sys.argv[1])
print(json.dumps([
    Bundle.load(Path(path)).embed([Request(**said["request"])])[0].tolist()
    for path in said["bundles"]
]))
"""
READ = """
import json, sys
from pagoda.bundle import Bundle
from pagoda.online import OnlineReader
from pagoda.settings import load
from pathlib import Path
bundle = Bundle.load(Path(sys.argv[1]))
row = OnlineReader(load(), bundle.service).read(int(sys.argv[2]), int(sys.argv[3]))["user_stats"]
print(json.dumps(row))
"""


@dataclass
class OldModel:
    """A model that reads `sequences_stats_v1`, asked again and again as serving asks it."""

    bundle: Bundle
    reader: OnlineReader
    rows: list[dict[str, Any]] = field(default_factory=list)
    vectors: list[list[float]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def ask(self) -> None:
        rows = self.reader.read(key_of("user", USER), NOON_MS)
        request = Request(query="milk", at_ms=NOON_MS, rows=rows)
        self.vectors.append(self.bundle.embed([request])[0].tolist())
        self.rows.append(dict(rows["user_stats"] or {}))

    @contextmanager
    def asked_all_the_time(self) -> Iterator[None]:
        stop = threading.Event()

        def run() -> None:
            try:
                while not stop.wait(0.05):
                    self.ask()
            except BaseException as error:
                self.failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def served(built: Settings, redis_server: Settings, spark: SparkSession) -> Settings:
    """The shop with its statistics online."""
    password = SecretStr(redis_server.redis_password())
    redis = redis_server.redis.model_copy(update={"password": password})
    shop = built.model_copy(update={"redis": redis})
    materialise(spark, shop, at=NOON, views=[USER_STATS])
    return shop


def test_a_statistic_is_added_as_the_guide_says_and_old_models_notice_nothing(
    served: Settings, trained: Path, tmp_path: Path
) -> None:
    alpha = toy.save(
        tmp_path / "bundles",
        "alpha",
        config=AlphaDnnConfig(width=16, attribute_width=8, hidden=(16,)),
        service=SEQUENCES_STATS_V1,
    )
    reader = OnlineReader(served, SEQUENCES_STATS_V1)
    old = OldModel(bundle=Bundle.load(alpha), reader=reader)
    rows = toy.feature_rows("u1", NOON_MS)
    before = [vector(path, rows) for path in (trained, alpha)]
    steps = guide.section("A statistic")
    copy = guide.Copy(tmp_path / "copy")
    for diff in steps.diffs:
        copy.change(diff)
    in_six_weeks = copy.root / "training" / "recipes.py"
    in_six_weeks.write_text(in_six_weeks.read_text().replace("train_days=84", "train_days=14"))
    commands = [in_shop(served, each) for each in steps.commands if "pagoda index" not in each]
    assert len(commands) == 5

    with old.asked_all_the_time():
        out = copy.run(commands, environment(served), first=AT_NOON)

    assert old.failures == []
    assert len(old.vectors) > 20
    assert all(each == old.vectors[0] for each in old.vectors)
    assert all(each == old.rows[0] for each in old.rows)
    assert old.rows[0]["buys_30d"] > 0
    # Old bundles: the same vectors, by this code and by the new.
    after = [vector(path, rows) for path in (trained, alpha)]
    said = {
        "bundles": [str(trained), str(alpha)],
        "request": {"query": "milk", "at_ms": NOON_MS, "rows": rows},
    }
    by_new_code = json.loads(copy.python(EMBED, environment(served), json.dumps(said)))
    np.testing.assert_array_equal(after, before)
    np.testing.assert_allclose(by_new_code, before, atol=1e-6)
    # The new model: trained on what was backfilled, and it reads the column online.
    (path,) = served.bundles.glob("alpha_dnn_carts_*")
    assert "alpha_dnn_carts" in out
    assert read_manifest(path).feature_service == "sequences_stats_v2"
    key = key_of("user", USER)
    online = json.loads(copy.python(READ, environment(served), str(path), str(key), str(NOON_MS)))
    assert online == {**old.rows[0], "carts_7d": carts(USER, 7)}
    assert online["carts_7d"] > 0
    # Days that were not built again hold null, and this code goes on reading them.
    stored = lake.open_table(served, USER_STATS.table).scan().to_arrow()
    unbuilt = [row for row in stored.to_pylist() if row["day"] < shops.smoke(served).whole.first]
    assert all(row["carts_7d"] is None for row in unbuilt)


def vector(path: Path, rows: Any) -> list[float]:
    found: list[float] = (
        Bundle.load(path).embed([Request(query="milk", at_ms=NOON_MS, rows=rows)])[0].tolist()
    )
    return found


def in_shop(shop: Settings, command: str) -> str:
    """The command for the shop's days instead of the guide's."""
    days = shops.smoke(shop).whole
    return re.sub(
        r"--from \S+ --to \S+",
        f"--from {days.first} --to {days.end - timedelta(days=1)}",
        command,
    )


def environment(shop: Settings) -> dict[str, str]:
    return {
        "PAGODA_HOME": str(shop.home),
        "PAGODA_LAKE__NAMESPACE": shop.lake.namespace,
        "PAGODA_REDIS__HOST": shop.redis.host,
        "PAGODA_REDIS__PORT": str(shop.redis.port),
        "PAGODA_REDIS__PASSWORD": shop.redis_password(),
    }


def carts(user: str, days: int) -> int:
    """Counted naively: what the user put into carts in the days before the last."""
    last = (LAST - shops.FIRST).days
    return sum(
        each["cart"]["user_id"] == user
        for day in range(last - days, last)
        for each in shops.bought(day)
    )
