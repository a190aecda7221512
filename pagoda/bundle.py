"""The bundle: all that serving needs of a trained model, in one folder that is whole or refused.

    <bundles>/<name>/
        bundle.json                  the manifest, with the SHA-256 of every other file
        weights.safetensors          both towers
        tokenizer.json               pagoda.text.Tokenizer
        items.arrow                  pagoda.models.catalogue, ascending item_key
        item_vectors.safetensors     `vectors`, float32 [N, width], row n belongs to row n of items

Never pickle. A bundle is written beside its place and renamed into it, so that a reader sees all
of it or nothing; `Bundle.load` checks everything and names every problem at once.

For a small real bundle from synthetic rows in a second or two, see `tests/training/toy.py`:
`toy.bundle(settings)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pagoda import features, whole
from pagoda.errors import BundleRefused
from pagoda.models.behaviour import Rows, TextNumbers, encode
from pagoda.models.catalogue import SCHEMA, Catalogue
from pagoda.text import Tokenizer
from pagoda.windows import WindowSpec

if TYPE_CHECKING:
    from pagoda.models.base import TwoTowers

MANIFEST = "bundle.json"
WEIGHTS, TOKENIZER, ITEMS, VECTORS = FILES = (
    "weights.safetensors",
    "tokenizer.json",
    "items.arrow",
    "item_vectors.safetensors",
)
_ITEMS_PER_PASS = 8_192


class ModelSpec(BaseModel):
    """How to build the model: its kind, its typed configuration, its tables' sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    config: dict[str, Any]
    sizes: dict[str, Any]


class Metric(BaseModel):
    """One line of the evaluation: a method's metrics over one set of rows.

    Attributes:
        count: how many rows. values: by metric, none without rows.
        intervals: 95 % of some of the values; bundles of earlier versions have none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    week: Literal["validation", "test"]
    method: str
    rows: str
    count: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}


class Manifest(BaseModel):
    """bundle.json.

    Attributes:
        name: folder name; letters, digits and underscores, as Milvus wants its collections.
        fingerprint: of the recipe and of the content of everything that was trained on.
        changed: settings that were given to the recipe of that name, as people wrote them.
        recipe_config: the whole typed recipe.
        schema_hash: of what the feature service reads, as the model was trained.
        counts: rows, requests, items, seconds: what training saw.
        snapshots: lake table to Iceberg snapshot id, as read.
        dataset: the import's record: name, query protocol, shift, test and validation days.
        files: file name to SHA-256.
        parent: the bundle whose weights training went on from; None where it began anew.
        device: what it was trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    recipe: str
    changed: list[str] = []
    recipe_config: dict[str, Any]
    fingerprint: str
    created_at: datetime
    model: ModelSpec
    width: int
    feature_service: str
    schema_hash: str
    windows: WindowSpec
    counts: dict[str, float]
    snapshots: dict[str, int]
    dataset: dict[str, Any]
    metrics: list[Metric]
    files: dict[str, str] = {}
    parent: str | None = None
    device: str = "cpu"

    @property
    def collection(self) -> str:
        """The Milvus collection of this bundle's items."""
        return f"items_{self.name}"

    @property
    def reads_queries(self) -> bool:
        """Whether a request must have a query; where not, it must have none.

        Whatever its kind, a model that was trained without queries makes nothing of one.
        """
        trained_on_them = self.dataset.get("requests", "searches") == "searches"
        return trained_on_them and self.model.config.get("query") != "last_item"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A search as it comes in.

    Attributes:
        at_ms: its moment, epoch milliseconds.
        rows: view name to the raw online feature row, before any cut; None where there is none.
    """

    query: str
    at_ms: int
    rows: Rows


class Bundle:
    """A whole, checked bundle."""

    def __init__(
        self,
        *,
        path: Path,
        manifest: Manifest,
        model: TwoTowers,
        tokenizer: Tokenizer,
        catalogue: Catalogue,
        item_vectors: npt.NDArray[np.float32],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.model = model
        self.tokenizer = tokenizer
        self.catalogue = catalogue
        self.item_vectors = item_vectors

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.manifest.name

    @property
    def collection(self) -> str:
        """The Milvus collection of its items."""
        return self.manifest.collection

    @property
    def service(self) -> features.Service:
        """The feature service that its user tower reads."""
        return features.service(self.manifest.feature_service)

    @property
    def items(self) -> pa.Table:
        """The item table: `pagoda.models.catalogue.SCHEMA`, ascending item_key."""
        return self.catalogue.table

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Load a bundle whole. Raises: BundleRefused naming every problem."""
        from pagoda.models import towers

        manifest, problems = _read_manifest(path)
        problems += _altered_files(path, manifest) if manifest else []
        if manifest is None or problems:
            raise _refused(path, problems)
        problems += misfits(manifest)
        tokenizer, unread = _read_tokenizer(path / TOKENIZER)
        problems += unread
        with pa.memory_map(str(path / ITEMS)) as source:
            table = pa.ipc.open_file(source).read_all()
        vectors, vector_problems = _read_vectors(path / VECTORS)
        problems += vector_problems
        if table.schema != SCHEMA:
            problems.append(f"{ITEMS}: columns differ from this version's item table")
        elif vectors.shape != (len(table), manifest.width):
            problems.append(
                f"{VECTORS}: {list(vectors.shape)}, expected {[len(table), manifest.width]}"
            )
        if table.schema == SCHEMA and not np.all(np.diff(table["item_key"].to_numpy()) > 0):
            problems.append(f"{ITEMS}: item_key does not ascend")
        if tokenizer is None or problems:
            raise _refused(path, problems)
        try:
            spec = manifest.model
            model = towers.load(spec.kind, spec.config, spec.sizes, path / WEIGHTS)
        except ValueError as error:
            raise _refused(path, [f"{WEIGHTS}: {error}"]) from error
        return cls(
            path=path,
            manifest=manifest,
            model=model,
            tokenizer=tokenizer,
            catalogue=Catalogue(table, tokenizer),
            item_vectors=vectors,
        )

    def embed(self, requests: Sequence[Request]) -> npt.NDArray[np.float32]:
        """User vectors of requests, float32 [B, width].

        Rows are joined, cut at each request's moment and encoded by the functions that made the
        training rows. Unknown users, items and words are never an error.
        """
        import torch

        from pagoda.models.inputs import user_batch

        if not requests:
            return np.empty((0, self.manifest.width), np.float32)
        numbers = TextNumbers()
        text_B = np.array([numbers[request.query] for request in requests], np.int64)
        behaviour = encode(
            ((request.rows, request.at_ms) for request in requests),
            self.catalogue,
            numbers,
            spec=self.manifest.windows,
            stats=self.service.columns_of(features.USER_STATS),
        )
        batch = user_batch(
            behaviour,
            self.catalogue,
            self.tokenizer.encode(numbers.texts),
            request_B=np.arange(len(requests)),
            text_B=text_B,
        )
        with torch.inference_mode():
            user_BD = self.model.encode_user(batch)
        return np.asarray(user_BD.numpy(), np.float32)

    def encode_items(self, items: pa.Table) -> npt.NDArray[np.float32]:
        """Item vectors of items as they are now, float32 [M, width], in ascending order of key.

        An item that this bundle was not trained on has no embedding of its own: its vector comes
        from its category, brand, shop and title.

        Args:
            items: with the columns of `pagoda.models.catalogue.FIELDS`, each item once.
        """
        import torch

        from pagoda.models.inputs import item_batch

        described = self.catalogue.describe(items)
        numbers_M = torch.from_numpy(self.catalogue.numbers(described.keys).astype(np.int64))
        vectors_MD = np.empty((len(described), self.manifest.width), np.float32)
        for start in range(0, len(described), _ITEMS_PER_PASS):
            rows = np.arange(start, min(start + _ITEMS_PER_PASS, len(described)))
            batch = replace(item_batch(rows + 1, described), item_M=numbers_M[rows])
            with torch.inference_mode():
                vectors_MD[rows] = self.model.encode_item(batch).numpy()
        return vectors_MD


def read_manifest(path: Path) -> Manifest:
    """The manifest alone: cheap, no file is checked. Raises: BundleRefused."""
    manifest, problems = _read_manifest(path)
    if manifest is None:
        raise _refused(path, problems)
    return manifest


def save(
    bundles: Path,
    manifest: Manifest,
    *,
    model: TwoTowers,
    tokenizer: Tokenizer,
    catalogue: Catalogue,
    item_vectors: npt.NDArray[np.float32],
) -> Path:
    """Write `<bundles>/<manifest.name>`, all of it or nothing.

    `manifest.files` is filled in here. Raises: FileExistsError if that name is taken.
    """
    from safetensors.numpy import save_file

    from pagoda.models import towers

    target = bundles / manifest.name
    if target.exists():
        raise FileExistsError(target)
    with whole.folder(target) as draft:
        towers.save(model, draft / WEIGHTS)
        (draft / TOKENIZER).write_bytes(tokenizer.model_dump_json().encode())
        with pa.ipc.new_file(str(draft / ITEMS), SCHEMA) as writer:
            writer.write_table(catalogue.table)
        save_file({"vectors": np.ascontiguousarray(item_vectors)}, draft / VECTORS)
        files = {name: digest(draft / name) for name in FILES}
        complete = manifest.model_copy(update={"files": files})
        (draft / MANIFEST).write_bytes(complete.model_dump_json(indent=2).encode())
    return target


def _read_manifest(path: Path) -> tuple[Manifest | None, list[str]]:
    try:
        return Manifest.model_validate(json.loads((path / MANIFEST).read_bytes())), []
    except OSError as error:
        return None, [f"{MANIFEST}: {error.strerror}"]
    except ValidationError as error:
        return None, told(MANIFEST, error)
    except ValueError as error:
        return None, [f"{MANIFEST}: not JSON: {error}"]


def _read_tokenizer(path: Path) -> tuple[Tokenizer | None, list[str]]:
    try:
        return Tokenizer.model_validate_json(path.read_bytes()), []
    except ValidationError as error:
        return None, told(path.name, error)


def told(name: str, error: ValidationError) -> list[str]:
    """What a JSON file has that its model does not allow, a line each."""
    return [f"{name}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]


def _altered_files(path: Path, manifest: Manifest) -> list[str]:
    problems = [f"{name}: not named by the manifest" for name in set(FILES) - set(manifest.files)]
    if manifest.name != path.name:
        problems.append(f"{MANIFEST}: names {manifest.name!r}, the folder is {path.name!r}")
    for name, expected in manifest.files.items():
        try:
            if digest(path / name) != expected:
                problems.append(f"{name}: altered (SHA-256 differs)")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    return sorted(problems)


def misfits(manifest: Manifest) -> list[str]:
    """Why this code does not have the features that the model was trained on; empty if it has."""
    problems = [f"windows: {each}" for each in manifest.windows.beyond(features.CANDIDATES)]
    try:
        service = features.service(manifest.feature_service)
    except KeyError as error:
        return [str(error.args[0]), *problems]
    if service.schema_hash != manifest.schema_hash:
        problems.append(
            f"feature service {service.name}: schema hash {manifest.schema_hash} at training, "
            f"{service.schema_hash} now; what a published service reads must not change"
        )
    return problems


def _read_vectors(path: Path) -> tuple[npt.NDArray[np.float32], list[str]]:
    from safetensors.numpy import load_file

    vectors: npt.NDArray[np.float32] | None = load_file(path).get("vectors")
    if vectors is None or vectors.dtype != np.float32 or vectors.ndim != 2:
        return np.empty((0, 0), np.float32), [f"{path.name}: no float32 matrix `vectors`"]
    if not np.isfinite(vectors).all():
        return vectors, [f"{path.name}: some vectors are not finite"]
    return vectors, []


def _refused(path: Path, problems: list[str]) -> BundleRefused:
    return BundleRefused(
        "this bundle cannot be used",
        where=str(path),
        found="; ".join(problems),
        next_step="Train again, or go back with `pagoda models rollback`.",
    )


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(value: Any) -> Mapping[str, Any]:
    """A dataclass as plain JSON values, for the manifest."""
    dumped: Mapping[str, Any] = TypeAdapter(type(value)).dump_python(value, mode="json")
    return dumped
