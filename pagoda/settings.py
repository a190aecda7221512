"""Settings: one frozen object, read once in `main` or `create_app`, never at import.

Precedence, highest first: environment (`PAGODA_KAFKA__BOOTSTRAP_SERVERS=…`), then
`$PAGODA_HOME/settings.toml`, then the addresses that `pagoda up` wrote for the local servers
(`$PAGODA_HOME/run/endpoints.toml`), then the defaults below. Moving from one machine to clusters
changes these values and no code.

Secrets are files of mode 0600 under `$PAGODA_HOME/secrets`, generated at first use; a setting
that is given wins over the file.
"""

from __future__ import annotations

import os
import secrets
import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pagoda.errors import SettingsError

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kafka(_Part):
    """Kafka and the names of its topics."""

    bootstrap_servers: str = "127.0.0.1:19092"
    events_topic: str = "behaviour-events"
    searches_topic: str = "search-events"
    items_topic: str = "item-updates"
    partitions: int = Field(default=4, ge=1)
    stream_group: str = "pagoda-sequences"

    @property
    def topics(self) -> tuple[str, str, str]:
        """The topics that carry input."""
        return (self.events_topic, self.searches_topic, self.items_topic)

    @staticmethod
    def rejected(topic: str) -> str:
        """Where records of `topic` go that cannot be read."""
        return f"{topic}.rejected"


class Stream(_Part):
    """The consumer of real-time sequences, and landing.

    Attributes:
        metrics_port: where `sequences` shows Prometheus metrics, on loopback; 0 for nowhere. The
            n-th of several takes the n-th port from there.
        consumers: how many `sequences` processes `pagoda up` runs: they share the partitions.
        session_s: how long a consumer may be silent before the others get its partitions; one that
            is started again takes its place at once.
        batch_records: most records that `sequences` reads, merges and commits at once.
        rewind_s: how far it goes back over records it has committed when it starts or when Redis
            comes back: what Redis acknowledged but lost is merged again.
        landing_trigger_s: how often landing commits to the lake.
        landing_records: most records of one topic in one commit to the lake.
    """

    metrics_port: int = Field(default=19102, ge=0, lt=65_536)
    consumers: int = Field(default=1, ge=1)
    session_s: float = Field(default=15, ge=6)
    batch_records: int = Field(default=20_000, ge=1)
    rewind_s: float = Field(default=10, ge=0)
    landing_trigger_s: float = Field(default=5, gt=0)
    landing_records: int = Field(default=100_000, ge=1)


class Robots(_Part):
    """What no person exceeds on a UTC day; see `jobs/batch/robots.py`.

    Attributes:
        events_per_day: clicks, collects, carts and buys; a basket may have hundreds of lines.
        events_per_item: of these with one and the same item.
        acts_per_hour: different moments of searching, clicking, collecting and carting within an
            hour of the clock.
        quick_ms, quick_acts: how soon after the one before a moment is too quick for a hand, and
            how many of those are no accident.
        clicked_share, clicked_items: the share of the items shown that were clicked, once it is
            so many; shops that record no impressions have no such share.
    """

    events_per_day: int = Field(default=1_000, ge=1)
    events_per_item: int = Field(default=30, ge=1)
    acts_per_hour: int = Field(default=300, ge=1)
    quick_ms: int = Field(default=200, ge=0)
    quick_acts: int = Field(default=20, ge=0)
    clicked_share: float = Field(default=0.9, ge=0, le=1)
    clicked_items: int = Field(default=30, ge=1)


class Redis(_Part):
    """The online store."""

    host: str = "127.0.0.1"
    port: int = 16379
    password: SecretStr | None = None


class Milvus(_Part):
    """The vector index.

    Attributes:
        alias: what rankers search; always names a whole, checked collection.
        flat_max_items: up to here the index is exact (FLAT), beyond it IVF_SQ8.
        nprobe: clusters that an unfiltered search of an IVF index reads; a filtered one reads
            all of them, since with fewer it would silently return too few and wrong.
        min_recall: below this, beside exact search, an index does not go live.
        keep_collections: how many stay for going back, the live one among them.
        timeout_ms: how long a search may take before Milvus counts as down.
    """

    uri: str = "http://127.0.0.1:19530"
    user: str = "root"
    password: SecretStr | None = None
    alias: str = "items"
    flat_max_items: int = Field(default=100_000, ge=0)
    nprobe: int = Field(default=128, ge=1)
    min_recall: float = Field(default=0.95, ge=0, le=1)
    keep_collections: int = Field(default=3, ge=2)
    timeout_ms: int = Field(default=5_000, ge=1)


class Lake(_Part):
    """The Iceberg catalog. Unset: a SQLite catalog and a warehouse folder in PAGODA_HOME.

    Attributes:
        pyiceberg: properties for PyIceberg's load_catalog, replacing the local ones.
        spark: properties below `spark.sql.catalog.lake.`, replacing the local ones.
        history_hours: how long snapshots stay, unless a tag holds them.
        orphan_hours: files that no snapshot knows are removed when they are older: a writer that
            is still at work has files that it has not committed yet.
    """

    pyiceberg: dict[str, str] = {}
    spark: dict[str, str] = {}
    namespace: str = "pagoda"
    history_hours: float = Field(default=6, ge=0)
    orphan_hours: float = Field(default=72, ge=24)


class Retention(_Part):
    """How many UTC days a table keeps before today; None: for ever. Maintenance drops the rest.

    Tables without a time of their own (`items`, `ids`, `item_profile`) keep what they hold.
    """

    events: int | None = Field(default=None, ge=1)
    searches: int | None = Field(default=None, ge=1)
    rejected: int | None = Field(default=90, ge=1)
    served: int | None = Field(default=14, ge=1)
    user_day: int | None = Field(default=None, ge=1)
    user_intraday: int | None = Field(default=None, ge=1)
    user_items: int | None = Field(default=None, ge=1)
    user_stats: int | None = Field(default=None, ge=1)
    item_stats: int | None = Field(default=None, ge=1)

    def days(self, table: str) -> int | None:
        """The days of a table of that name."""
        found: int | None = getattr(self, table, None)
        return found


class Disk(_Part):
    """What PAGODA_HOME may take on the disk; None: as much as there is.

    Nothing is deleted for it: `pagoda status` shows use beside budget, `pagoda doctor` warns.

    Attributes:
        budget_gb: of all folders together, in units of 2**30 bytes.
        folders_gb: of single folders, as `pagoda status` names them: `lake`, `data/kafka`.
    """

    budget_gb: float | None = Field(default=None, gt=0)
    folders_gb: dict[str, Annotated[float, Field(gt=0)]] = {}


class Spark(_Part):
    """Where and how Spark runs."""

    master: str = "local[*]"
    driver_memory: str = "3g"
    shuffle_partitions: int = 8
    conf: dict[str, str] = {}


class Training(_Part):
    """What is trained, and where.

    Attributes:
        recipe: where none is named: by the runs that Airflow's clock starts, by `pagoda train`.
        device: the processor, or a card by its number: cuda, cuda:1.
    """

    recipe: str = "demo"
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:(0|[1-9]\d?))?)$")


class Airflow(_Part):
    """Airflow's API server, and the environment it lives in.

    Attributes:
        options: Airflow's own, as SECTION__OPTION, over those of `pagoda up airflow`: another
            database (DATABASE__SQL_ALCHEMY_CONN) or executor (CORE__EXECUTOR), for example.
    """

    url: str = "http://127.0.0.1:18080"
    user: str = "admin"
    password: SecretStr | None = None
    environment: Path = PROJECT_ROOT / ".venv-airflow"
    options: dict[str, str] = {}


class Serving(_Part):
    """The search service.

    Attributes:
        max_k: most results of one request; 16,384 is Milvus's own limit.
        relevance: what brand and category terms in a query do, unless the request says.
        min_relevant: terms that fewer items satisfy are dropped, the most selective first.
        poll_ms: how often the registry is asked which bundle is current.
        served_sample: share of requests whose feature rows are kept in the lake's `served`.
        example_users: how many recently active users the search page offers; 0 shows none.
    """

    host: str = "127.0.0.1"
    port: int = 18000
    max_k: int = Field(default=1000, ge=1, le=16_384)
    relevance: Literal["filter", "post_filter", "off"] = "filter"
    min_relevant: int = Field(default=10, ge=1)
    poll_ms: int = Field(default=1_000, ge=10)
    served_sample: float = Field(default=0.1, ge=0, le=1)
    served_flush_s: float = Field(default=60, gt=0)
    example_users: int = Field(default=6, ge=0)


class Quality(_Part):
    """When `pagoda check freshness`, and with it the DAG `quality`, fails.

    Attributes:
        max_age_hours: of the newest row of a view that is built daily, offline and online. A day's
            row is valid from midnight, so it is a day old before the next one is due.
        max_behind_hours: how much older the newest row of the offline `user_intraday` may be than
            the newest event in the lake.
        max_event_age_hours: of the newest event in the lake; 0 where history is only imported.
        max_wait_s: how long a record of Kafka may wait to be read online, and to land.
        max_null_rate: share of nulls in sequences and counts: the build leaves none.
        max_null_rise: how many more nulls than in the reference week any column may have.
        psi_warn, psi_fail: drift against the reference week that is worth a look, and too much.
        min_rows: drift is not judged where either week has fewer rows.
        reference_from: the first day of the reference week; the week before this one if unset.
        online_keys: how many of the online store's keys are looked at; above, it is a sample.
        online_rows: of how many entities the whole online row is read.
    """

    max_age_hours: float = Field(default=30, gt=0)
    max_behind_hours: float = Field(default=30, gt=0)
    max_event_age_hours: float = Field(default=0, ge=0)
    max_wait_s: float = Field(default=300, gt=0)
    max_null_rate: float = Field(default=0, ge=0, le=1)
    max_null_rise: float = Field(default=0.05, ge=0, le=1)
    psi_warn: float = Field(default=0.1, gt=0)
    psi_fail: float = Field(default=0.25, gt=0)
    min_rows: int = Field(default=1000, ge=1)
    reference_from: date | None = None
    online_keys: int = Field(default=200_000, ge=1)
    online_rows: int = Field(default=2_000, ge=1)


class Settings(BaseSettings):
    """All settings of one installation."""

    model_config = SettingsConfigDict(
        env_prefix="PAGODA_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    home: Path = PROJECT_ROOT / ".pagoda"
    servers: Literal["embedded", "external"] = "embedded"
    kafka: Kafka = Kafka()
    stream: Stream = Stream()
    robots: Robots = Robots()
    redis: Redis = Redis()
    milvus: Milvus = Milvus()
    lake: Lake = Lake()
    retention: Retention = Retention()
    disk: Disk = Disk()
    spark: Spark = Spark()
    training: Training = Training()
    airflow: Airflow = Airflow()
    serving: Serving = Serving()
    quality: Quality = Quality()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over the user's file over what `pagoda up` found free."""
        home = Path(init_settings().get("home") or home_folder())
        files = (home / "settings.toml", home / "run" / "endpoints.toml")
        return (
            init_settings,
            env_settings,
            *(TomlConfigSettingsSource(settings_cls, file) for file in files if file.exists()),
        )

    # Folders -----------------------------------------------------------------------------------

    @property
    def logs(self) -> Path:
        """Logs of servers and stages."""
        return self._folder("logs")

    @property
    def run(self) -> Path:
        """Sockets, pid files and addresses of running servers."""
        return self._folder("run")

    @property
    def lake_folder(self) -> Path:
        """Local catalog and warehouse."""
        return self._folder("lake")

    @property
    def jars(self) -> Path:
        """Jars fetched by coordinate: `jars/spark`, `jars/kafka`."""
        return self._folder("jars")

    @property
    def bundles(self) -> Path:
        """Model bundles, and which of them is current."""
        return self._folder("bundles")

    @property
    def feast_folder(self) -> Path:
        """Feast's registry and lock."""
        return self._folder("feast")

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of streaming queries."""
        return self._folder("checkpoints")

    @property
    def reports(self) -> Path:
        """What checks found, for people."""
        return self._folder("reports")

    @property
    def scratch(self) -> Path:
        """Training rows and other files that can be made again."""
        return self._folder("scratch")

    @property
    def simulations(self) -> Path:
        """The truth about simulated streams."""
        return self._folder("simulations")

    def data(self, server: str) -> Path:
        """The data folder of one local server."""
        return self._folder(f"data/{server}")

    def _folder(self, name: str) -> Path:
        path = self.home / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    # Secrets -----------------------------------------------------------------------------------

    def redis_password(self) -> str:
        """Redis's password, generated at first use."""
        return self._secret("redis", self.redis.password)

    def milvus_password(self) -> str:
        """The password of Milvus's user, generated at first use."""
        return self._secret("milvus", self.milvus.password)

    def airflow_password(self) -> str:
        """The password of Airflow's user, generated at first use."""
        return self._secret("airflow", self.airflow.password)

    def _secret(self, name: str, given: SecretStr | None) -> str:
        return given.get_secret_value() if given else secret(self.home, name)


def home_folder() -> Path:
    """`$PAGODA_HOME`, or `.pagoda` beside the code."""
    return Path(os.environ.get("PAGODA_HOME") or PROJECT_ROOT / ".pagoda").absolute()


def secret(home: Path, name: str) -> str:
    """The secret of that name, generated at first use into a file of mode 0600."""
    path = home / "secrets" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        try:
            os.link(draft, path)  # fails if another process was first: then its secret counts
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text()


def load(**overrides: Any) -> Settings:
    """Read the settings. Raises: SettingsError naming every setting that is wrong."""
    overrides.setdefault("home", home_folder())
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
            for each in error.errors()
        )
        raise SettingsError(
            problems,
            where="settings",
            next_step="Check PAGODA_* variables and settings.toml, or run `pagoda doctor`.",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"not TOML: {error}",
            where=str(Path(overrides["home"]) / "settings.toml"),
            next_step="Correct that line.",
        ) from error
