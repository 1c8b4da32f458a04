"""Validating a log: verdicts, clocks, limits and what is hidden."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sidar.config import Config
from sidar.data import toy
from sidar.data.cleaning.advice import unmapped_actions
from sidar.data.cleaning.quarantine import Quarantine, write_quarantine
from sidar.data.duck import Duck
from sidar.data.log import LogFacts, action_codes, validate_log
from sidar.types import INTERACTIONS_SCHEMA

TS = toy.FIRST_DAY + 36_000_000_000  # ten o'clock


def validate(
    tmp_path: Path, log: pa.Table | Path, **events: object
) -> tuple[pa.Table, LogFacts, Quarantine]:
    path = log
    if isinstance(log, pa.Table):
        path = tmp_path / "log.parquet"
        pq.write_table(log, path)
    privacy = events.pop("privacy", {"hash_users": False})
    cfg = Config.model_validate(
        {"threads": 1, "events": {"path": str(path), **events}, "privacy": privacy}
    )
    with Duck(tmp_path / "w", "256MB", 1) as duck:
        facts, quarantine = validate_log(duck, cfg, toy.catalogue(), tmp_path / "i.parquet")
        write_quarantine([quarantine], tmp_path / "q.parquet")
        return pq.read_table(tmp_path / "i.parquet"), facts, quarantine


def click(**fields: object) -> dict:
    return {"ts": TS, "item_id": "T000", "action": "click", **fields}


def test_the_toy_log_validates_to_its_own_interactions(tmp_path: Path) -> None:
    table, facts, quarantine = validate(tmp_path, toy.events())
    assert table.schema.equals(INTERACTIONS_SCHEMA)
    order = [
        ("ts", "ascending"),
        ("request_id", "ascending"),
        ("row", "ascending"),
        ("action", "ascending"),
    ]
    assert table.equals(toy.interactions().sort_by(order).cast(table.schema))
    assert (facts.rows, facts.days, facts.day0) == (toy.events().num_rows, 8, toy.FIRST_DAY)
    assert quarantine.bad == 0


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([TS // 1_000_000], "auto"),
        ([TS // 1000], "auto"),
        ([TS], "auto"),
        ([TS * 1000], "auto"),
        ([TS // 1_000_000], "s"),
        ([str(TS // 1000)], "auto"),
        ([TS / 1e6], "auto"),
        (["2026-01-05T10:00:00Z"], "auto"),
        (["2026-01-05T12:00:00+02:00"], "auto"),
        (["2026-01-05 10:00:00.000"], "auto"),
        ([datetime.datetime(2026, 1, 5, 10, tzinfo=datetime.UTC)], "auto"),
        ([datetime.datetime(2026, 1, 5, 10)], "auto"),
    ],
)
def test_every_clock_becomes_microseconds(tmp_path: Path, values: list, unit: str) -> None:
    log = pa.table({"ts": values, "item_id": ["T000"], "action": ["click"]})
    table, facts, _ = validate(tmp_path, log, ts_unit=unit)
    assert table.column("ts").to_pylist() == [TS]
    counted = isinstance(values[0], int | float) or str(values[0]).isdigit()
    assert any("numeric timestamps are read as" in note for note in facts.notes) == counted


def test_dates_and_mixed_spellings_in_one_column(tmp_path: Path) -> None:
    spelt = [
        "2026-01-05",
        str(TS // 1000),
        "1767607200000.5",
        "2026-01-05T10:00:00Z",
        str(TS // 1_000_000),
        "soon",
    ]
    log = pa.table({"ts": spelt, "item_id": ["T000"] * 6, "action": ["click"] * 6})
    table, _, quarantine = validate(tmp_path, log, bad_rows=0.5)
    assert table.column("ts").to_pylist() == [toy.FIRST_DAY, TS, TS, TS + 500]
    # a stray second among ms is not guessed
    assert quarantine.malformed == {"ts outside 1990-2100": 1, "bad ts": 1}


def test_each_bad_row_has_its_reason_place_and_raw_text(tmp_path: Path) -> None:
    rows = [
        click(),
        click(ts=None),
        click(ts=float("nan")),
        click(item_id=None),
        click(item_id=" "),
        click(action=None),
        click(position=-1),
        click(position=2.0),
        click(item_id="gone"),
        click(action="hover", item_id=None),
    ]
    log = pa.Table.from_pylist(
        [{"position": None, "user_id": "secret", "query": "q  uery", **r} for r in rows]
    )
    table, facts, quarantine = validate(
        tmp_path,
        log.set_column(log.schema.get_field_index("ts"), "ts", log.column("ts").cast(pa.float64())),
        bad_rows=0.9,
    )
    assert facts.rows == table.num_rows == 2
    assert table.column("position").to_pylist() == [0, 2]
    assert quarantine.malformed == {
        "missing ts": 2,
        "missing item_id": 2,
        "missing action": 1,
        "bad position": 1,
    }
    assert (quarantine.unknown, dict(quarantine.ignored), quarantine.total) == (1, {"hover": 1}, 10)
    kept = pq.read_table(tmp_path / "q.parquet").to_pylist()
    assert {(r["place"], r["reason"]) for r in kept} == {
        (2, "missing ts"),
        (3, "missing ts"),
        (4, "missing item_id"),
        (5, "missing item_id"),
        (6, "missing action"),
        (7, "bad position"),
        (9, "unknown item"),
    }
    assert json.loads(kept[-1]["raw"])["item_id"] == "gone"
    assert not any("secret" in r["raw"] for r in kept)
    assert all(r["file"].endswith("log.parquet") for r in kept)


def test_unknown_items_are_counted_and_kept_only_on_request(tmp_path: Path) -> None:
    log = pa.Table.from_pylist([click(), *(click(item_id=f"gone{n}") for n in range(99))])
    _, _, quarantine = validate(tmp_path, log)
    assert (quarantine.unknown, quarantine.bad) == (99, 0)  # not malformed: no limit applies
    assert pq.read_metadata(tmp_path / "q.parquet").num_rows == 99
    _, _, quarantine = validate(tmp_path, log, unknown_items="drop")
    assert quarantine.unknown == 99
    assert pq.read_metadata(tmp_path / "q.parquet").num_rows == 0


def test_a_catalogue_that_lacks_many_items_is_a_warning_with_an_id_of_either_side(
    tmp_path: Path,
) -> None:
    ignored = [click(item_id="0009", action="hover")] * 500  # not used anyway: no part of the share
    few = [click()] * 90 + [click(item_id="0007")] * 6 + [click(item_id="0008")] * 4
    assert validate(tmp_path, pa.Table.from_pylist([*few, *ignored]))[1].warnings == []
    _, facts, _ = validate(tmp_path, pa.Table.from_pylist([*few, *few[-4:], *ignored]))
    (said,) = facts.warnings
    assert said.startswith(
        "14 of 104 event rows (13%) name items that the catalogue does not have, e.g. '0008' (8 "
        "rows)"
    )
    assert "an id of the catalogue is 'T000'" in said
    assert all(
        cause in said
        for cause in ("events.columns.item_id", "leading zeros", "old or partial catalogue")
    )


@pytest.mark.parametrize(
    ("ignored", "said"),
    [
        ({}, ""),
        (
            {"buy": 120, "view": 2000},
            "actions that nothing maps: view (2,000 rows), buy (120 rows); map each to impression, "
            "click, cart or order, e.g. events.actions: {view: impression, buy: order}",
        ),
        ({"hover": 1}, "nothing maps: hover (1 row); .* e.g. events.actions: {hover: impression}"),
        ({"hover": 1, "tap": 1}, "e.g. events.actions: {tap: click}"),
        ({f"a{n}": 9 - n for n in range(7)}, r"a4 (5 rows) and 2 more; "),
        ({"add": 1, "y: z": 1}, "{add: cart}"),
        ({"y: z": 1}, "{'y: z': impression}"),
    ],
)
def test_unmapped_actions_are_named_with_the_line_that_maps_them(
    ignored: dict[str, int], said: str
) -> None:
    found = unmapped_actions(ignored)
    assert bool(found) == bool(said)
    place = 0
    for part in said.split(" .* "):
        assert part in found[place:]
        place = found.index(part)
    if found:
        mapping = yaml.safe_load(found[found.index("{") :])
        action_codes(mapping)  # what is proposed can be used
        assert mapping.keys() <= ignored.keys()


def test_the_limit_stops_the_run_and_says_why(tmp_path: Path) -> None:
    log = pa.Table.from_pylist([click(ts=None if n < 3 else TS) for n in range(100)])
    with pytest.raises(
        ValueError,
        match=(
            r"3 of 100 rows.*3\.0%, allowed 1\.0%.*missing ts "
            r"\(3\).*log\.parquet.*events\.bad_rows"
        ),
    ):
        validate(tmp_path, log)
    assert validate(tmp_path, log, bad_rows=0.03)[1].rows == 97


def test_a_log_without_a_usable_row_names_the_mapping(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of 2 rows.*2 name items.*events\.columns\.item_id"):
        validate(tmp_path, pa.Table.from_pylist([click(item_id="x"), click(item_id="y")]))
    with pytest.raises(
        ValueError, match=r"not mapped \(hover\).*maps: hover \(1 row\).*events\.actions: "
    ):
        validate(tmp_path, pa.Table.from_pylist([click(action="Hover ")]))
    with pytest.raises(ValueError, match="none of 0 rows"):
        validate(
            tmp_path,
            pa.table({"ts": pa.array([], pa.int64()), "item_id": pa.array([], pa.string())}),
        )


def test_actions_are_mapped_in_any_case_and_default_to_clicks(tmp_path: Path) -> None:
    log = pa.Table.from_pylist(
        [click(action=a) for a in (" Impression", "ADD_TO_CART", "Kauf", "purchase")]
    )
    table, facts, _ = validate(tmp_path, log, actions={"kauf": "order"})
    assert sorted(table.column("action").to_pylist()) == [0, 2, 3, 3]
    table, facts, _ = validate(tmp_path, log.drop_columns(["action"]))
    assert table.column("action").to_pylist() == [1] * 4
    assert any("every row is read as a click" in note for note in facts.notes)
    with pytest.raises(
        ValueError, match=r"events\.actions\.kauf: 'buy' is none of impression, click, cart, order"
    ):
        action_codes({"kauf": "buy"})


def test_users_are_hashed_with_a_salt_and_queries_are_tidied(tmp_path: Path) -> None:
    log = pa.Table.from_pylist(
        [click(user_id="ann", query=" red\t shoes\n"), click(user_id=None, query=None, ts=TS + 1)]
    )
    seen = []
    for salt in ("", "pepper"):
        table, _, _ = validate(tmp_path, log, privacy={"hash_users": True, "salt": salt})
        want = hashlib.sha256(f"sidar user {salt}:ann".encode()).hexdigest()[:16]
        assert table.column("user_id").to_pylist() == [want, ""]  # nobody stays nobody
        seen.append(want)
    assert len(set(seen)) == 2
    assert table.column("query").to_pylist() == ["red shoes", ""]


def test_mixed_encodings_cost_single_lines(tmp_path: Path) -> None:
    lines = [b"ts,item_id,query,action"] + [
        b"%d,T000,caf\xc3\xa9,click" % (TS + n) for n in range(400)
    ]
    lines[7] = b"%d,T000,caf\xe9,click" % TS  # Latin-1
    lines[9] = b"not a time,T000,x,click"
    (tmp_path / "log.csv").write_bytes(b"\n".join(lines) + b"\n")
    table, _, quarantine = validate(tmp_path, tmp_path / "log.csv")
    assert table.num_rows == 398
    assert quarantine.malformed == {"not UTF-8": 1, "bad ts": 1}
    places = {r["reason"]: r["place"] for r in pq.read_table(tmp_path / "q.parquet").to_pylist()}
    assert places == {"not UTF-8": 8, "bad ts": 10}  # as an editor numbers them
