"""The pre-ranker of a bundle: it lies inside the bundle's folder, and goes with it.

    <bundles>/<name>/ranker/
        ranker.json             what it is, for which towers, and the SHA-256 of its weights
        weights.safetensors     pagoda.models.bst

A bundle is whole without one, and serving reads none: it judges what retrieval finds
(`pagoda evaluate --funnel`). Its tables have the numbers of the bundle's catalogue and tokenizer.
Like the bundle it is written beside its place and renamed into it, whole or refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pagoda import whole
from pagoda.bundle import Bundle, digest, told
from pagoda.errors import BundleRefused
from pagoda.models import towers
from pagoda.models.bst import Bst, BstConfig
from pagoda.models.tables import Sizes

FOLDER, RECORD, WEIGHTS = "ranker", "ranker.json", "weights.safetensors"


class Record(BaseModel):
    """ranker.json.

    Attributes:
        fingerprint: the bundle's.
        config: how it was trained, its model's configuration included.
        counts: lines, steps, loss, seconds: what training saw.
        weights: SHA-256 of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    fingerprint: str
    config: dict[str, Any]
    counts: dict[str, float]
    weights: str = ""


def folder_of(bundle: Bundle) -> Path:
    """Where a bundle's pre-ranker lies, if it has one."""
    return bundle.path / FOLDER


def load(bundle: Bundle) -> tuple[Bst, Record] | None:
    """The bundle's pre-ranker, None if it has none.

    Raises: BundleRefused if it is altered, incomplete or belongs to other towers.
    """
    folder = folder_of(bundle)
    if not folder.exists():
        return None
    try:
        record = Record.model_validate_json((folder / RECORD).read_bytes())
        if record.fingerprint != bundle.manifest.fingerprint:
            raise _refused(folder, f"it is of the towers {record.fingerprint}")
        if digest(folder / WEIGHTS) != record.weights:
            raise _refused(folder, f"{WEIGHTS}: altered (SHA-256 differs)")
        config = TypeAdapter(BstConfig).validate_python(record.config["model"])
        sizes = Sizes.read(bundle.manifest.model.sizes)
        return towers.filled(lambda: config.build(sizes), folder / WEIGHTS), record
    except ValidationError as error:
        raise _refused(folder, "; ".join(told(RECORD, error))) from error
    except (OSError, KeyError, ValueError) as error:
        raise _refused(folder, str(error)) from error


def save(bundle: Bundle, model: Bst, record: Record) -> Record:
    """Write it, all of it or nothing, in the place of an earlier one.

    Returns: the record, with the SHA-256 of the weights.
    """
    with whole.folder(folder_of(bundle), replace=True) as draft:
        towers.save(model, draft / WEIGHTS)
        complete = record.model_copy(update={"weights": digest(draft / WEIGHTS)})
        (draft / RECORD).write_bytes(complete.model_dump_json(indent=2).encode())
    return complete


def _refused(folder: Path, found: str) -> BundleRefused:
    return BundleRefused(
        "this pre-ranker cannot be used",
        where=str(folder),
        found=found,
        next_step="Train it again with `pagoda ranker --force`.",
    )
