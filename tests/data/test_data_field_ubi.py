"""UBI as OpenSearch, Elasticsearch and their tools export it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from test_data_field_types import events

QUERY = {
    "query_id": "q1", "client_id": "c1", "user_query": "red lamp",
    "timestamp": "2026-11-01T10:00:00Z",
    "query_response_id": "x", "query_response_hit_ids": ["P2", "P1", "P3"],
}  # fmt: skip


def event(position: Any = None, **more: Any) -> dict:
    attributes: dict = {"object": {"object_id": "P1"}}
    if position is not None:
        attributes["position"] = position
    return {
        "action_name": "click", "query_id": "q1", "client_id": "c1",
        "timestamp": "2026-11-01T10:00:05Z",
        "event_attributes": attributes, **more,
    }  # fmt: skip


def rows(
    tmp_path: Path,
    records: list[dict],
    name: str = "ubi.ndjson",
    text: str | None = None,
    **section: Any,
) -> list:
    plain = "\n".join(map(json.dumps, records)) if text is None else text
    path = tmp_path / name
    path.write_bytes(gzip.compress(plain.encode()) if name.endswith(".gz") else plain.encode())
    found = events(path, format="ubi", **section)
    return sorted(
        (r["action"], r["request_id"], r["item_id"], r["position"], r["query"]) for r in found
    )


SHOWN = [
    ("impression", "q1", item, str(i), "red lamp")
    for i, item in enumerate(["P2", "P1", "P3"], start=1)
]
WANT = sorted([("click", "q1", "P1", "2", "red lamp"), *SHOWN])


def test_the_ids_of_an_answer_are_what_was_shown(tmp_path: Path) -> None:
    assert rows(tmp_path, [QUERY, event({"ordinal": 1})]) == WANT
    other = {**QUERY, "query_response_object_ids": QUERY["query_response_hit_ids"]}
    del other["query_response_hit_ids"]
    assert rows(tmp_path, [event({"ordinal": 1}), other]) == WANT
    numbers = rows(tmp_path, [{**QUERY, "query_response_hit_ids": [7, 8]}])
    assert [row[2] for row in numbers] == ["7", "8"]
    assert (
        rows(tmp_path, [{**QUERY, "query_response_hit_ids": []}, event({"ordinal": 1})]) == WANT[:1]
    )


@pytest.mark.parametrize("name", ["impression", "seen"])
def test_impression_events_count_before_the_answer(tmp_path: Path, name: str) -> None:
    seen = event({"ordinal": 1}, action_name=name)
    second = {**QUERY, "query_id": "q2"}
    found = rows(tmp_path, [QUERY, seen, second], actions={"seen": "impression"})
    assert [row[:3] for row in found if row[1] == "q1"] == [(name, "q1", "P1")]
    assert len([row for row in found if row[1] == "q2"]) == 3


@pytest.mark.parametrize(
    "position",
    [
        {"ordinal": 1},
        1,
        "1",
        {"ordinal": 1.0},
        {"ordinal": {"$numberInt": "1"}},
        {"ordinal": "1", "x": 5},
    ],
)
def test_a_position_is_a_number_or_an_object(tmp_path: Path, position: object) -> None:
    assert rows(tmp_path, [QUERY, event(position)])[0][3] == "2"
    flat = event()
    flat["event_attributes.object.object_id"] = flat.pop("event_attributes")["object"]["object_id"]
    flat["event_attributes.position.ordinal"] = 1
    assert rows(tmp_path, [QUERY, flat]) == WANT


WRAPPED = [
    {"_index": "ubi", "_id": str(i), "_source": r}
    for i, r in enumerate([QUERY, event({"ordinal": 1})])
]
LAYOUTS = {
    "dump": ("ubi.ndjson", "\n".join(map(json.dumps, WRAPPED))),
    "packed dump": ("ubi.jsonl.gz", "\n".join(map(json.dumps, WRAPPED))),
    "list": ("ubi.json", json.dumps([QUERY, event({"ordinal": 1})])),
    "list over lines": ("ubi.json", json.dumps([QUERY, event({"ordinal": 1})], indent=2)),
    "list of wrapped": ("ubi.json.gz", json.dumps(WRAPPED, indent=2)),
    "list in ndjson": (
        "ubi.ndjson",
        "[\n" + ",\n".join(map(json.dumps, [QUERY, event({"ordinal": 1})])) + "\n]\n",
    ),
    "objects over lines": (
        "ubi.json",
        json.dumps(QUERY, indent=2) + "\n" + json.dumps(event({"ordinal": 1}), indent=2),
    ),
    "search response": (
        "ubi.json",
        json.dumps({"took": 3, "hits": {"total": 2, "hits": WRAPPED}}, indent=2),
    ),
    "search response in a line": (
        "ubi.json",
        json.dumps({"took": 3, "hits": {"total": 2, "hits": WRAPPED}}),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrapped_and_listed_records_are_read(tmp_path: Path, layout: str) -> None:
    name, text = LAYOUTS[layout]
    assert rows(tmp_path, [], name, text) == WANT


def test_other_logs_and_catalogues_are_unwrapped_too(tmp_path: Path) -> None:
    record = {"_index": "products", "_id": "P1", "_source": {"title": "lamp", "ts": 5}}
    (tmp_path / "log.jsonl").write_text(json.dumps(record))
    columns = {"item_id": "_id", "query": "title"}
    (row,) = events(tmp_path / "log.jsonl", columns=columns)
    assert (row["item_id"], row["query"], row["ts"]) == ("P1", "lamp", "5")
    (row,) = events(tmp_path / "log.jsonl", columns={"item_id": "_id", "query": "_source.title"})
    assert row["query"] == "lamp"


def test_ids_that_a_tool_made_doubles_are_one_id(tmp_path: Path) -> None:
    click = event({"ordinal": 0}, query_id=7.0, event_attributes={"object": {"object_id": 12.0}})
    found = rows(tmp_path, [{**QUERY, "query_id": 7}, click])
    assert found[0] == ("click", "7", "12", None, "red lamp")
