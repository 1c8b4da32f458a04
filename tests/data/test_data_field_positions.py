"""Positions that count from 0: recognised, told, and corrected by `events.first_position`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from field_shop import catalogue, log, run

from sidar.config import Config
from sidar.pipeline.stages import data as data_stage


def positions(folder: Path) -> list[int]:
    table = pq.read_table(folder / "out" / "interactions.parquet", columns=["position"])
    return sorted(set(table.column("position").to_pylist()))


def shifted(rows: list, by: int, actions: tuple[str, ...] = ("impression", "click")) -> list:
    return [
        {**row, "position": row["position"] + by} if row["action"] in actions else row
        for row in rows
    ]


def test_lists_from_zero_are_told_and_corrected(tmp_path: Path) -> None:
    rows = shifted(log(), -1)
    assert (
        "WARNING: position 0 in 16 rows means unknown, but 16 of 16 lists have exactly one"
        in run(tmp_path, rows)
    )
    assert "WARNING" not in run(tmp_path, rows, events={"first_position": 0})
    assert positions(tmp_path) == [1, 2, 3]
    assert "WARNING" not in run(tmp_path, rows, events={"first_position": 1})
    assert positions(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("form", [str, "{:.1f}".format])
def test_decimals_and_text_are_positions_too(tmp_path: Path, form: Callable[[int], str]) -> None:
    rows = [{**row, "position": form(row["position"])} for row in shifted(log(), -1)]
    assert "events.first_position: 0" in run(tmp_path, rows)


def test_unknown_positions_are_no_origin(tmp_path: Path) -> None:
    unknown = [{**row, "position": 0} if row["action"] == "click" else row for row in log()]
    assert "WARNING" not in run(tmp_path, unknown)
    assert "WARNING" not in run(tmp_path, [{**row, "position": 0} for row in log()])
    some = [{**row, "position": 0} if n % 5 == 0 else row for n, row in enumerate(log())]
    assert "WARNING" not in run(tmp_path, some)


def test_clicks_and_lists_of_different_origins_are_told(tmp_path: Path) -> None:
    said = run(tmp_path, shifted(log(), -1, ("click",)))
    assert "WARNING: 16 of 16 clicked items have a position one less in the click" in said


def test_clicks_alone_from_zero_are_told(tmp_path: Path) -> None:
    clicks = [row for row in log(requests=8) if row["action"] == "click"]
    rows = [{**row, "position": (0, 0, 0, 1, 0, 2, 1, 0)[n % 8]} for n, row in enumerate(clicks)]
    sampled = {"preference": {"negatives": "sampled"}}
    assert "WARNING: position 0 in 20 rows means unknown" in run(tmp_path, rows, **sampled)
    assert "WARNING" not in run(tmp_path, rows, **sampled, events={"first_position": 0})
    assert positions(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize(
    ("first", "option", "told"), [(0, None, False), (1, None, True), (1, 1, False)]
)
def test_ordinals_of_ubi_start_at_zero_by_its_standard(
    tmp_path: Path, first: int, option: object, told: bool
) -> None:
    lines = []
    for row in log():
        attributes = {
            "object": {"object_id": row["item_id"]},
            "position": {"ordinal": int(str(row["position"])) - 1 + first},
        }
        lines.append(
            {
                "action_name": row["action"],
                "query_id": row["request_id"],
                "user_query": row["query"],
                "client_id": row["user_id"],
                "timestamp": row["ts"],
                "event_attributes": attributes,
            }
        )
    (tmp_path / "ubi.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cfg = Config.model_validate(
        {"threads": 1, "events": {"format": "ubi", "first_position": option}}
    )
    cfg.catalogue.path, cfg.events.path = str(catalogue(tmp_path)), str(tmp_path / "ubi.ndjson")
    cfg.runs, cfg.name = str(tmp_path), "run"
    (tmp_path / "out").mkdir()
    summary = str(data_stage(cfg, {}, tmp_path / "out", tmp_path / "work")["summary"])
    assert ("WARNING: 16 of 16 lists look as if position.ordinal counted from 1" in summary) == told
    assert positions(tmp_path) == ([2, 3, 4] if told else [1, 2, 3])


def test_answers_of_ubi_give_lists_with_negatives(tmp_path: Path) -> None:
    lines: list[dict] = []
    for row in log():
        shared = {
            "query_id": row["request_id"],
            "client_id": row["user_id"],
            "timestamp": row["ts"],
        }
        if row["action"] == "click":
            place = {"object": {"object_id": row["item_id"]}, "position": {"ordinal": 1}}
            lines.append({**shared, "action_name": "click", "event_attributes": place})
        elif row["position"] == 1:
            lines.append(
                {**shared, "user_query": row["query"], "query_response_hit_ids": [row["item_id"]]}
            )
        else:
            lines[-1]["query_response_hit_ids"].append(row["item_id"])
    (tmp_path / "ubi.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cfg = Config.model_validate({"threads": 1, "events": {"format": "ubi"}})
    cfg.catalogue.path, cfg.events.path = str(catalogue(tmp_path)), str(tmp_path / "ubi.ndjson")
    cfg.runs, cfg.name = str(tmp_path), "run"
    (tmp_path / "out").mkdir()
    data_stage(cfg, {}, tmp_path / "out", tmp_path / "work")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["lists"]["mean_negatives"], report["lists"]["without_negatives"]) == (2.0, 0)
    assert positions(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("fraction", ["1.5", "2.25", "0.5"])
def test_a_position_that_is_no_whole_number_is_refused(tmp_path: Path, fraction: str) -> None:
    rows = [
        {**row, "position": fraction if n == 4 else f"{row['position']}.0"}
        for n, row in enumerate(log())
    ]
    with pytest.raises(ValueError, match=rf"bad position \(1\).*record 6, position '{fraction}'"):
        run(tmp_path, rows)


@pytest.mark.parametrize("ordinal", [1.5, "2.5"])
def test_an_ordinal_of_ubi_that_is_no_whole_number_is_refused(
    tmp_path: Path, ordinal: object
) -> None:
    event = {
        "action_name": "click",
        "timestamp": "2026-11-01T00:00:00Z",
        "query_id": "q",
        "client_id": "c",
    }
    attributes = {"object": {"object_id": "P1"}, "position": {"ordinal": ordinal}}
    (tmp_path / "e.ndjson").write_text(json.dumps({**event, "event_attributes": attributes}) + "\n")
    cfg = Config.model_validate({"events": {"path": str(tmp_path / "e.ndjson"), "format": "ubi"}})
    cfg.catalogue.path = str(catalogue(tmp_path))
    cfg.runs, cfg.name = str(tmp_path), "run"
    with pytest.raises(
        ValueError, match=rf"bad position \(1\).*e\.ndjson, record 1, position '{ordinal}'"
    ):
        data_stage(cfg, {}, tmp_path / "out", tmp_path / "work")
