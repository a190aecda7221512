from __future__ import annotations

from pathlib import Path

import pytest

from pagoda.errors import InputError
from training.labels import Labels


def file_of(folder: Path, *lines: str, header: str = "query,item_id,label") -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("lines", "good", "expected"),
    [
        (("Green  Tea,a,E", "green tea,b,S"), (), {"a": True, "b": False}),
        (("Green  Tea,a,E", "green tea,b,S"), ("E", "S"), {"a": True, "b": True}),
        (("green tea,a,Partial", "green tea,b,Exact"), (), {"a": False, "b": True}),
    ],
)
def test_both_forms_are_read(
    tmp_path: Path, lines: tuple[str, ...], good: tuple[str, ...], expected: dict[str, bool]
) -> None:
    assert Labels.read(file_of(tmp_path, *lines), good).of("GREEN tea") == expected


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    path = file_of(tmp_path, "tea,a,E", "tea,b", "tea,a,S", "tea,c,Exact", ",d,E")
    with pytest.raises(InputError) as raised:
        Labels.read(path, ["Partial"])
    told = raised.value.problems
    lines = [each.partition(":")[0] for each in told[:-1]]
    assert sorted(lines) == ["line 3", "line 4", "line 5", "line 6"]
    assert "'Partial' cannot be good" in told[-1]


def test_another_file_is_refused_by_its_header(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found query, product_id, esci_label"):
        Labels.read(file_of(tmp_path, "tea,a,E", header="query,product_id,esci_label"))
    (tmp_path / "latin.csv").write_bytes(b"query,item_id,label\ncaf\xe9,a,E\n")
    with pytest.raises(InputError, match="not CSV in UTF-8"):
        Labels.read(tmp_path / "latin.csv")
    with pytest.raises(InputError, match="no such file"):
        Labels.read(tmp_path / "gone.csv")
