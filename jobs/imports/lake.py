"""Writing an import into the lake: each table whole or not at all, and once.

A table remembers, in its properties and in the summary of the snapshot, which import it holds:
`pagoda.import.<source>` with the fingerprint of files, mapping and options. It is committed
together with the rows, so a killed import leaves a table either untouched or finished, and the
next run goes on with the tables that are missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction

from pagoda.errors import Conflict, InputError

PREFIX = "pagoda.import."


class Held(BaseModel):
    """What a table says about the import that it holds."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    shift_days: int
    rows: int


def held(table: IcebergTable) -> Mapping[str, Held]:
    """The imports that a table holds, by source name."""
    found = {}
    for key, value in table.properties.items():
        if key.startswith(PREFIX):
            try:
                found[key.removeprefix(PREFIX)] = Held.model_validate_json(value)
            except ValidationError:
                continue  # written by another version: treated as not there, so replaced
    return found


def replace(
    table: IcebergTable,
    source: str,
    batches: Iterable[pa.Table],
    *,
    fingerprint: str,
    shift_days: int,
    instead_of: Collection[str] = (),
) -> int:
    """Put `batches` in the place of what `source` and `instead_of` brought, in one commit.

    Returns: rows written.
    Raises: Conflict if somebody else kept writing meanwhile; nothing was changed then.
    """
    going = sorted({source, *instead_of})
    rows = 0
    try:
        with table.transaction() as transaction:
            if "source" in table.schema().column_names and table.current_snapshot():
                _delete(transaction, going)
            for batch in batches:
                if batch.num_rows:
                    transaction.append(
                        batch, snapshot_properties={f"{PREFIX}{source}": fingerprint}
                    )
                    rows += batch.num_rows
            now = Held(fingerprint=fingerprint, shift_days=shift_days, rows=rows)
            transaction.remove_properties(*(f"{PREFIX}{each}" for each in instead_of))
            transaction.set_properties({f"{PREFIX}{source}": now.model_dump_json()})
    except (CommitFailedException, ValidationException) as error:
        raise Conflict(
            f"somebody else wrote to the table meanwhile: {error}",
            where=".".join(table.name()),
            next_step="Import again; finished tables are kept.",
        ) from error
    return rows


def _delete(transaction: Transaction, sources: Iterable[str]) -> None:
    """Whatever stands there, also if the property that tells of it was lost."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Delete operation did not match any records")
        for each in sources:
            transaction.delete(f"source == '{each}'")


def new_ids(table: IcebergTable, ids: pa.Table) -> pa.Table:
    """Those of `ids` (kind, id, key; distinct) that the lake does not know yet.

    Raises: InputError naming both strings of every two ids that share a key.
    """
    known = table.scan().to_arrow().cast(ids.schema)
    together = (
        pa.concat_tables([known, ids])
        .group_by(["kind", "key"])
        .aggregate([("id", "min"), ("id", "max")])
    )
    clash = together.filter(pc.not_equal(together["id_min"], together["id_max"]))
    if clash.num_rows:
        raise InputError(
            "two ids have the same 63-bit key; nothing was written",
            problems=[
                f"{row['kind']} {row['id_min']!r} and {row['id_max']!r}: key {row['key']}"
                for row in clash.slice(0, 20).to_pylist()
            ],
            next_step="Rename one of each two ids in the source.",
        )
    unknown = ids.join(known, keys=["kind", "key"], join_type="left anti")
    return pa.table(unknown.select(ids.column_names).columns, schema=ids.schema)
