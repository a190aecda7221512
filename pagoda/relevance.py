"""The relevance model of a data set, the judge of `P_good@K` (`pagoda evaluate --relevance`).

    <home>/relevance/
        relevance.json          what it learned from, how well it judges, and the files' SHA-256
        weights.safetensors     pagoda.models.relevance
        tokenizer.json          its words, of its own

It is of the data set and of no bundle, so that all bundles meet the same judge; serving reads none.
Like a bundle it is written beside its place and renamed into it, whole or refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from pagoda import whole
from pagoda.bundle import digest, told
from pagoda.errors import BundleRefused, NothingToDo
from pagoda.models import towers
from pagoda.models.ragged import Ragged
from pagoda.models.relevance import ItemTexts, Relevance, RelevanceConfig
from pagoda.settings import Settings
from pagoda.text import Tokenizer

RECORD = "relevance.json"
WEIGHTS, TOKENIZER = FILES = ("weights.safetensors", "tokenizer.json")
_PAIRS_PER_PASS = 2_048


class Record(BaseModel):
    """relevance.json.

    Attributes:
        dataset: the name of the data set whose items were labelled.
        good: the labels that counted as good.
        config: how it was trained, its model's configuration included.
        threshold: the least odds of what is relevant.
        counts: queries, pairs, seconds: what training saw.
        held_out: by method, how well it tells pairs of queries apart that nothing was learned from.
        files: file name to SHA-256.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    dataset: str
    good: tuple[str, ...]
    config: dict[str, Any]
    threshold: float
    counts: dict[str, float]
    held_out: dict[str, dict[str, float]]
    files: dict[str, str] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """A relevance model, its words, and the least odds of what is relevant."""

    model: Relevance
    tokenizer: Tokenizer
    threshold: float

    def queries(self, texts: list[str]) -> Ragged:
        """Queries as `odds` takes them."""
        return self.tokenizer.encode(texts).words

    def items(self, items: pa.Table) -> ItemTexts:
        """Items as `odds` takes them; the table has the columns of `pagoda.models.catalogue`."""
        return ItemTexts.of(items, self.tokenizer)

    def odds(self, queries: Ragged, items: ItemTexts) -> npt.NDArray[np.float32]:
        """The log odds that each item is relevant to the query beside it, [P]."""
        found = np.empty(len(queries), np.float32)
        for start in range(0, len(queries), _PAIRS_PER_PASS):
            some = np.arange(start, min(start + _PAIRS_PER_PASS, len(queries)))
            with torch.inference_mode():
                found[some] = self.model(*tensors(queries.take(some), items.take(some))).numpy()
        return found


def tensors(queries: Ragged, items: ItemTexts) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs as the model takes them."""
    query_PN, item_PM, field_PM = (
        torch.from_numpy(each.padded()[0].astype(np.int64))
        for each in (queries, items.words, items.fields)
    )
    return query_PN, item_PM, field_PM


def load(settings: Settings) -> tuple[Judge, Record]:
    """The data set's judge.

    Raises: NothingToDo without one; BundleRefused if it is altered or incomplete.
    """
    folder = folder_of(settings)
    if not folder.exists():
        raise NothingToDo(
            "there is no relevance model",
            where=str(folder),
            next_step="Run `pagoda relevance --labels FILE`.",
        )
    try:
        record = Record.model_validate_json((folder / RECORD).read_bytes())
        for name in FILES:
            if digest(folder / name) != record.files.get(name):
                raise _refused(folder, f"{name}: altered (SHA-256 differs)")
        tokenizer = Tokenizer.model_validate_json((folder / TOKENIZER).read_bytes())
        config = TypeAdapter(RelevanceConfig).validate_python(record.config["model"])
        words = tokenizer.words.size
        model = towers.filled(lambda: config.build(words), folder / WEIGHTS)
    except ValidationError as error:
        raise _refused(folder, "; ".join(told(RECORD, error))) from error
    except (OSError, KeyError, ValueError) as error:
        raise _refused(folder, str(error)) from error
    return Judge(model=model, tokenizer=tokenizer, threshold=record.threshold), record


def save(settings: Settings, judge: Judge, record: Record) -> None:
    """Write it, all of it or nothing, in the place of an earlier one."""
    with whole.folder(folder_of(settings), replace=True) as draft:
        towers.save(judge.model, draft / WEIGHTS)
        (draft / TOKENIZER).write_bytes(judge.tokenizer.model_dump_json().encode())
        files = {name: digest(draft / name) for name in FILES}
        complete = record.model_copy(update={"files": files})
        (draft / RECORD).write_bytes(complete.model_dump_json(indent=2).encode())


def folder_of(settings: Settings) -> Path:
    """Where the judge lies, if there is one."""
    return settings.home / "relevance"


def _refused(folder: Path, found: str) -> BundleRefused:
    return BundleRefused(
        "this relevance model cannot be used",
        where=str(folder),
        found=found,
        next_step="Train it again with `pagoda relevance --labels FILE`.",
    )
