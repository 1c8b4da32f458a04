"""Shapes of categories and attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_field_types import catalogue

from sidar.config import Config
from sidar.data import read_catalogue

PATH = ["Clothing", "Men", "Watches"]
SHAPES: dict[str, Any] = {
    "names": PATH,
    "text": "Clothing > Men > Watches",
    "one text in a list": ["Clothing > Men > Watches"],
    "one path in a list": [PATH],
    "paths": [PATH[:2], PATH, ["Gifts"]],
    "equally long paths": [["Home", "Clocks", "Wall"], PATH],
    "texts of paths": ["Clothing", "Clothing > Men > Watches"],
    "objects": [
        {"id": 1, "name": "Clothing"},
        {"id": 2, "name": "Men"},
        {"id": 3, "name": "Watches"},
    ],
    "lists of objects": [[{"name": name} for name in PATH]],
    "object with a path": {"id": 7, "title": "Clothing > Men > Watches"},
    "levels": {"level1": "Clothing", "level2": "Men", "level3": "Watches"},
    "hierarchy": {"lvl0": "Clothing", "lvl1": "Clothing > Men", "lvl2": "Clothing > Men > Watches"},
}


def read(path: Path, **section: Any) -> tuple[list[dict], list[str]]:
    cfg = Config.model_validate({"threads": 1, "catalogue": {"path": str(path), **section}})
    found, quarantine = read_catalogue(cfg)
    return found.table.to_pylist(), quarantine.unread


@pytest.mark.parametrize("shape", SHAPES)
def test_one_path_of_plain_names_comes_out_of_every_shape_and_format(
    tmp_path: Path, shape: str
) -> None:
    value = SHAPES[shape]
    record = {"item_id": "P1", "title": "t", "category": value}
    (tmp_path / "c.jsonl").write_text(json.dumps(record))
    pq.write_table(
        pa.table({key: [inner] for key, inner in record.items()}), tmp_path / "c.parquet"
    )
    for suffix in ("jsonl", "parquet"):
        assert read(tmp_path / f"c.{suffix}") == (catalogue(tmp_path / f"c.{suffix}"), [])
        assert catalogue(tmp_path / f"c.{suffix}")[0]["category"] == PATH
    for written in (json.dumps(value), str(value)):  # as json.dumps and as pandas write a cell
        quoted = written.replace('"', '""')
        (tmp_path / "c.csv").write_text(f'item_id,title,category\nP1,t,"{quoted}"\n')
        if shape != "text":
            assert catalogue(tmp_path / "c.csv")[0]["category"] == PATH


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (str(np.array(PATH)), PATH),
        (repr(np.array(PATH, dtype=object)), PATH),
        ("('Clothing', \"Men's\")", ["Clothing", "Men's"]),
        ("[]", []),
        ("[17, 18.0]", ["17", "18"]),
        ("[Sale] Shoes > Men", ["[Sale] Shoes", "Men"]),
        ("(Other)", ["(Other)"]),
        ("2024", ["2024"]),
    ],
)
def test_lists_as_text_and_texts_that_only_look_like_lists(
    tmp_path: Path, text: str, path: list[str]
) -> None:
    quoted = text.replace('"', '""')
    (tmp_path / "c.csv").write_text(f'item_id,title,category\nP1,t,"{quoted}"\n')
    items, unread = read(tmp_path / "c.csv")
    assert (items[0]["category"], unread) == (path, [])


@pytest.mark.parametrize(
    "text",
    [
        "['Clothing', 'Men",
        '{"id": 5, "slug": "x"}',
        "{Clothing,Men}",
        '[{"id": 5, "n": 1}]',
        '[{"name": "Home"}, {"id": 5, "n": 1}]',
    ],
)
def test_a_category_without_names_is_missing_and_told(tmp_path: Path, text: str) -> None:
    quoted = text.replace('"', '""')
    (tmp_path / "c.csv").write_text(f'item_id,title,category\nP1,t,"{quoted}"\nP2,t,Home\n')
    items, (said,) = read(tmp_path / "c.csv")
    assert [item["category"] for item in items] == [[], ["Home"]]
    assert said.startswith("1 of 2 values of 'category' are no path, nor a list or object of names")
    assert "c.csv" in said


@pytest.mark.parametrize("other", ["/", " / ", "|", ">", " >> ", ";"])
def test_a_separator_that_never_occurs_is_told_with_the_one_that_does(
    tmp_path: Path, other: str
) -> None:
    rows = "".join(f"P{i}\tt\tHome{other}Room {i}\n" for i in range(5))
    (tmp_path / "c.tsv").write_text("item_id\ttitle\tcategory\n" + rows)
    _, (said,) = read(tmp_path / "c.tsv")
    assert f"set catalogue.category_separator: {other!r}" in said
    assert f"'Home{other}Room 0'" in said
    assert read(tmp_path / "c.tsv", category_separator=other)[1] == []


def test_one_joined_text_in_a_list_is_cut_at_the_separator(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        'item_id,title,category\nP1,t,"[""Clothing >> Men >> Watches""]"\n'
    )
    assert read(tmp_path / "c.csv", category_separator=" >> ")[0][0]["category"] == PATH


def test_flat_categories_are_no_fault(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("item_id,title,category\nP1,t,Home\nP2,t,Toys & Games\n")
    assert read(tmp_path / "c.csv")[1] == []


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('{"size": 5.0, "in": {"a": [1]}}', {"size": 5.0, "in": {"a": [1]}}),
        ("{'color': 'red', 'sizes': ('S', 'M'), 'new': True, 'x': None}", None),
        (
            '[{"name": "color", "value": "red"}, {"name": "color", "value": "blue"}]',
            {"color": ["red", "blue"]},
        ),
        ("[{'color': 'red'}, {'size': 5}]", {"color": "red", "size": 5}),
    ],
)
def test_attributes_as_json_python_or_pairs(tmp_path: Path, text: str, want: dict | None) -> None:
    quoted = text.replace('"', '""')
    (tmp_path / "c.csv").write_text(f'item_id,title,attributes\nP1,t,"{quoted}"\n')
    items, unread = read(tmp_path / "c.csv")
    expected = want or {"color": "red", "sizes": ["S", "M"], "new": True, "x": None}
    assert (json.loads(items[0]["attributes"]), unread) == (expected, [])


@pytest.mark.parametrize("text", ["color: red", "{'color': ", "[1, 2]", '"red"'])
def test_attributes_that_are_no_object_are_missing_and_told(tmp_path: Path, text: str) -> None:
    quoted = text.replace('"', '""')
    (tmp_path / "c.csv").write_text(f'item_id,title,attributes\nP1,t,"{quoted}"\nP2,t,\n')
    items, (said,) = read(tmp_path / "c.csv")
    assert items[0]["attributes"] is None
    assert said.startswith("1 of 1 values of 'attributes' are no JSON object")


@pytest.mark.parametrize(
    "value",
    [[None, "Home", "Clocks"], [float("nan"), "Home", "Clocks"], [None, ["Home", "Clocks"]]],
)
def test_a_list_that_begins_with_no_value_is_still_a_path(tmp_path: Path, value: list) -> None:
    record = {"item_id": "P1", "title": "a", "category": value}
    (tmp_path / "c.jsonl").write_text(json.dumps(record) + "\n")
    assert read(tmp_path / "c.jsonl")[0][0]["category"] == ["Home", "Clocks"]
    (tmp_path / "c.csv").write_text(f'item_id;title;category\nP1;a;"{value}"\n')
    items, said = read(tmp_path / "c.csv")
    if "nan" in str(value):  # no Python list that can be read, and never shown as text
        assert items[0]["category"] == []
        assert "are no path, nor a list or object of names" in said[0]
    else:
        assert items[0]["category"] == ["Home", "Clocks"]
