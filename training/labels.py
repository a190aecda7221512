"""Graded labels of (query, item) pairs that people gave, read from a file."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pagoda.errors import InputError

COLUMNS = ("query", "item_id", "label")
# Best first: Reddy et al. 2022 (ESCI: exact, substitute, complement, irrelevant), Chen et al. 2022.
FORMS = {"ESCI": ("E", "S", "C", "I"), "WANDS": ("Exact", "Partial", "Irrelevant")}


@dataclass(frozen=True)
class Labels:
    """What people said of items.

    Attributes:
        good: whether each labelled item is good, by item id, by query as `_plain` writes it.
        called_good: the labels that count as good.
        best: whether these are the form's best alone, so that an item is good only if it is all
            that the query asks for.
    """

    good: dict[str, dict[str, bool]]
    called_good: tuple[str, ...] = ()
    best: bool = True

    @classmethod
    def read(cls, path: Path, good: Collection[str] = ()) -> Labels:
        """Read a CSV file with the columns query, item_id and label; tabs for `.tsv`.

        Args:
            good: the labels that count as good; none: the form's best.

        Raises:
            InputError: for a file that is not of one form, with every line that is not, and for
                good labels that the form does not have.
        """
        if not path.is_file():
            raise InputError("there is no such file of labels", where=str(path))
        try:
            label_of, places, problems = _lines(path)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                "this is not CSV in UTF-8", where=str(path), found=str(error)
            ) from None
        # The form that knows most of the labels: what it does not know is the mistake.
        form = max(FORMS, key=lambda each: len(places.keys() & set(FORMS[each])))
        problems += [
            f"line {line}: {label!r} is no label of {form} (first of its kind)"
            for label, line in places.items()
            if label not in FORMS[form]
        ]
        problems += [
            f"{each!r} cannot be good: it is no label of {form}"
            for each in good
            if each not in FORMS[form]
        ]
        if problems:
            raise InputError(
                "these labels cannot be used",
                where=str(path),
                expected=" or ".join(f"{name} ({', '.join(of)})" for name, of in FORMS.items()),
                problems=problems,
            )
        chosen = [each for each in FORMS[form] if each in good] or [FORMS[form][0]]
        found: dict[str, dict[str, bool]] = {}
        for (query, item), label in label_of.items():
            found.setdefault(query, {})[item] = label in chosen
        return cls(found, tuple(chosen), chosen == [FORMS[form][0]])

    def of(self, query: str) -> dict[str, bool]:
        """The query's labelled items, and whether each is good."""
        return self.good.get(_plain(query), {})


def _lines(path: Path) -> tuple[dict[tuple[str, str], str], dict[str, int], list[str]]:
    """The label of each (query, item id), the first line of each label, and what is wrong."""
    label_of: dict[tuple[str, str], str] = {}
    places: dict[str, int] = {}
    problems = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = next(lines, [])
        if tuple(header) != COLUMNS:
            raise InputError(
                "this is not a file of labels",
                where=f"{path}:1",
                expected=", ".join(COLUMNS),
                found=", ".join(header) or "nothing",
            )
        for fields in lines:
            if len(fields) != len(COLUMNS) or not all(each.strip() for each in fields):
                problems.append(f"line {lines.line_num}: needs {', '.join(COLUMNS)}")
                continue
            query, item, label = _plain(fields[0]), fields[1], fields[2]
            before = label_of.setdefault((query, item), label)
            if before != label:
                problems.append(
                    f"line {lines.line_num}: {query!r}, {item!r} is {label}, was {before} above"
                )
            places.setdefault(label, lines.line_num)
    return label_of, places, problems


def _plain(query: str) -> str:
    return " ".join(query.casefold().split())
