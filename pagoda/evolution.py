"""How a lake table follows its declaration: columns are added and widened, nothing is lost.

    missing in the table, optional        added; rows that were there hold null
    int32 -> int64, float32 -> float64    widened; files stay as they are
    required -> optional                  relaxed
    in the table only, or wider there     left: a newer version of the code has been here
    anything else                         refused, every column named with both types

Several processes may find the same difference at once: whoever commits second looks again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.table import Table as IcebergTable
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pagoda.errors import InputError
from pagoda.schemas import Table

_WIDER = {pa.int32(): pa.int64(), pa.float32(): pa.float64()}


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What a declaration has that a table lacks.

    Attributes:
        changes: columns to add, widen or relax, for people.
        problems: columns that cannot follow.
    """

    changes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def differences(there: pa.Schema, declared: pa.Schema) -> Differences:
    """Compare a table's schema, as Arrow, with its declaration."""
    found = Differences()
    names = set(there.names)
    for wanted in declared:
        if wanted.name not in names:
            if wanted.nullable:
                found.changes.append(f"add {wanted.name} {wanted.type}")
            else:
                found.problems.append(
                    f"column {wanted.name}: missing, expected {wanted.type} in every row; "
                    "what is there has no value for it, so it can only be added as optional"
                )
            continue
        has = there.field(wanted.name)
        ours, theirs = _plain(wanted.type), _plain(has.type)
        if _WIDER.get(theirs) == ours:
            found.changes.append(f"widen {wanted.name} {theirs} to {ours}")
        elif theirs not in (ours, _WIDER.get(ours)):
            found.problems.append(f"column {wanted.name}: expected {ours}, found {theirs}")
        if wanted.nullable and not has.nullable:
            found.changes.append(f"relax {wanted.name}")
        elif has.nullable and not wanted.nullable:
            found.problems.append(
                f"column {wanted.name}: expected in every row, found optional: some may lack it"
            )
    return found


def of_table(found: IcebergTable, table: Table) -> Differences:
    """What this declaration has that the Iceberg table lacks."""
    return differences(schema_to_pyarrow(found.schema()), table.schema)


@retry(
    retry=retry_if_exception_type(CommitFailedException),
    stop=stop_after_attempt(8),
    wait=wait_random_exponential(multiplier=0.1, max=3),
    reraise=True,
)
def evolve(catalog: Catalog, found: IcebergTable, table: Table) -> IcebergTable:
    """The table with all that its declaration names, changed where necessary.

    Raises: InputError naming every column that cannot follow.
    """
    seen = of_table(found, table)
    if not (seen.changes or seen.problems):
        return found
    current = catalog.load_table(found.name())
    seen = of_table(current, table)
    if seen.problems:
        raise InputError(
            "the table cannot follow its declaration",
            where=f"lake table {table.name}",
            problems=seen.problems,
            next_step="Leave the column as it is and add one of another name; "
            'see "What cannot change" in docs/add-a-feature.md.',
        )
    if seen.changes:
        with current.update_schema() as update:
            update.union_by_name(table.schema)
    return catalog.load_table(found.name())


def _plain(kind: pa.DataType) -> pa.DataType:
    """Without what makes no difference: large or not, names and nullability inside."""
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    return kind
