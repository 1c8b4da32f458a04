"""The data stage end to end: what leaks, what is the same twice, what a daily rebuild keeps."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from sidar.artifacts import sha256_file
from sidar.config import Config, EvalSetConfig
from sidar.data import build, open_dataset, toy
from sidar.data.cleaning.quarantine import QUARANTINE_SCHEMA
from sidar.pipeline.stages import data as data_stage
from sidar.types import INTERACTIONS_SCHEMA


def config(folder: Path, **sections: object) -> Config:
    paths = toy.write_inputs(folder)
    cfg = Config.model_validate({"threads": 1, **sections})
    cfg.catalogue.path, cfg.events.path, cfg.users.path = (
        str(paths[n]) for n in ("catalogue", "events", "users")
    )
    return cfg


def test_the_folder_holds_the_contract(tmp_path: Path) -> None:
    report = build(config(tmp_path), tmp_path / "data")
    names = {p.name for p in (tmp_path / "data").iterdir()}
    assert names == {
        "catalogue.arrow", "interactions.parquet", "users.parquet", "requests.parquet",
        "sft.parquet", "lists.parquet",
        "priors.parquet", "quarantine.parquet", "report.json", "eval",
    }  # fmt: skip
    data = open_dataset(tmp_path / "data")
    assert data.report == {
        name: part for name, part in report.items() if name not in ("eval", "held_out")
    }
    for name, file in (("eval", "sets"), ("held_out", "held_out")):
        assert json.loads((tmp_path / "data" / "eval" / f"{file}.json").read_text()) == report[name]
    assert pq.read_schema(data.interactions_path).equals(INTERACTIONS_SCHEMA)
    assert pq.read_schema(tmp_path / "data" / "quarantine.parquet").equals(QUARANTINE_SCHEMA)
    ints, bytes_ = pa.list_(pa.int32()), pa.list_(pa.int8())
    want = {
        "requests": {
            "ts": pa.int64(),
            "day": pa.int32(),
            "history": ints,
            "rows": ints,
            "positions": ints,
            "actions": bytes_,
        },
        "sft": {
            "source": pa.string(),
            "positives": ints,
            "tiers": bytes_,
            "history": ints,
            "profile": pa.string(),
        },
        "lists": {
            "split": pa.string(),
            "negatives": ints,
            "negative_positions": ints,
            "tiers": bytes_,
        },
        "priors": {
            "row": pa.int32(),
            "clicks": pa.int64(),
            "prior": pa.float32(),
            "first_day": pa.int32(),
        },
    }
    for name, columns in want.items():
        schema = pq.read_schema(tmp_path / "data" / f"{name}.parquet")
        for column, kind in columns.items():
            found = schema.field(column).type
            assert (
                (found.value_type == kind.value_type) if pa.types.is_list(kind) else (found == kind)
            ), (name, column)
    assert data.item_text(["title", "category", "brand"])[8].endswith(
        "Home & Kitchen > Bath > Towels. Softdale"
    )
    with pytest.raises(ValueError, match="no field 'colour'"):
        data.item_text(["colour"])
    with pytest.raises(ValueError, match="holds no dataset"):
        open_dataset(tmp_path)


def test_nothing_of_validation_or_test_reaches_training(tmp_path: Path) -> None:
    build(config(tmp_path), tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    split = {r.request_id: (s, r.day) for s in ("train", "valid", "test") for r in data.requests(s)}
    assert {split[i][0] for i in data.sft().column("request_id").to_pylist()} == {"train"}
    assert {split[i] for i in data.lists("valid").column("request_id").to_pylist()} == {
        ("valid", 7)
    }
    assert data.lists("test").num_rows == 0
    until = toy.FIRST_DAY + 6 * toy.DAY_US
    clicked = [r for r in toy.interactions().to_pylist() if r["action"] >= 1 and r["ts"] < until]
    assert data.priors().clicks.sum() == len({(r["request_id"], r["row"]) for r in clicked})
    assert data.priors().first_day.tolist()[:8] == [1] * 7 + [5]  # launched on day 5


def test_held_out_queries_are_dropped_from_training_and_counted(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    (tmp_path / "q.tsv").write_text("query_id\tquery\n1\tPan, frying!\n2\tno such thing at all\n")
    (tmp_path / "r.tsv").write_text("query_id\titem_id\tgrade\n1\tT000\t1\n")
    said = {"queries": str(tmp_path / "q.tsv"), "qrels": str(tmp_path / "r.tsv")}
    for role in ("test", "valid"):
        cfg.evaluate.sets = [EvalSetConfig(name="judged", origin="real", role=role, **said)]
        report = build(cfg, tmp_path / "data")
        data = open_dataset(tmp_path / "data")
        assert "frying pan" not in set(data.sft().column("query").to_pylist())
        assert "frying pan" not in {r.prompt.query for r in data.requests("train")}
        dropped = list(data.requests("none"))
        assert {r.prompt.query for r in dropped} == {"frying pan"}
        assert report["requests"]["held_out_requests_dropped"] == len(dropped) > 0
        assert report["requests"]["held_out_queries_in_log"] == 1
    cfg.evaluate.sets[0].origin = "simulated"  # word order is another query there
    assert build(cfg, tmp_path / "data")["requests"]["held_out_requests_dropped"] == 0


def test_building_twice_and_on_more_threads_writes_the_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for threads in (1, 1, 2):
        cfg = config(tmp_path, threads=threads)
        build(cfg, tmp_path / "data")
        files = sorted(p for p in (tmp_path / "data").rglob("*") if p.is_file())
        hashes.append({p.name: sha256_file(p) for p in files})
    assert hashes[0] == hashes[1] == hashes[2]


def test_csv_and_jsonl_inputs_give_the_same_dataset(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    build(cfg, tmp_path / "parquet")
    events = toy.events()
    import pyarrow.csv as pa_csv

    pa_csv.write_csv(events, tmp_path / "events.csv")
    (tmp_path / "events.jsonl").write_text("\n".join(json.dumps(row) for row in events.to_pylist()))
    for ending in ("csv", "jsonl"):
        cfg.events.path = str(tmp_path / f"events.{ending}")
        build(cfg, tmp_path / ending)
        for name in ("interactions", "requests", "lists", "sft", "priors"):
            left, right = (
                pq.read_table(tmp_path / kind / f"{name}.parquet") for kind in ("parquet", ending)
            )
            assert left.equals(right), (ending, name)


def test_a_daily_rebuild_keeps_rows_and_lineage(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    build(cfg, tmp_path / "monday")
    table = pq.read_table(cfg.catalogue.path)
    newcomer = table.slice(0, 1).set_column(0, "item_id", pa.array(["T999"]))
    changed = pa.concat_tables(
        [newcomer, table.filter(pc.not_equal(table.column("item_id"), "T003"))]
    )
    pq.write_table(changed, cfg.catalogue.path)
    report = build(cfg, tmp_path / "tuesday", previous=tmp_path / "monday")
    monday, tuesday = (open_dataset(tmp_path / day) for day in ("monday", "tuesday"))
    assert report["catalogue"]["items"] == 65
    assert tuesday.catalogue.lineage == monday.catalogue.lineage
    assert tuesday.catalogue.item_ids[:64].tolist() == monday.catalogue.item_ids.tolist()
    assert tuesday.catalogue.row("T999") == 64
    assert not tuesday.catalogue.alive[3]
    assert report["events"]["unknown_items"] > 0  # what happened to the retired item counts no more
    assert tuesday.priors().impressions[3] == 0
    assert not any(3 in p for p in tuesday.lists().column("positives").to_pylist())


def test_only_recently_clicked_items_stay(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.catalogue.clicked_within_days = 1  # the last training day is day 6
    report = build(cfg, tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    log = toy.interactions().to_pylist()
    days = {
        r["row"]
        for r in log
        if r["action"] > 0 and (r["ts"] - toy.FIRST_DAY) // toy.DAY_US + 1 == 6
    }
    assert {row for row, alive in enumerate(data.catalogue.alive) if alive} == days
    assert 0 < len(days) < 64
    assert report["requests"]["events_of_filtered_items"] == sum(r["row"] not in days for r in log)
    assert all(set(r.rows) <= days and set(r.prompt.history) <= days for r in data.requests())
    cfg.split.unit = "leave_one_out"
    with pytest.raises(ValueError, match=r"clicked_within_days needs split\.unit: day"):
        build(cfg, tmp_path / "data")


def test_quarantine_gathers_both_sources(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    catalogue, events = pq.read_table(cfg.catalogue.path), pq.read_table(cfg.events.path)
    pq.write_table(pa.concat_tables([catalogue, catalogue.slice(5, 1)]), cfg.catalogue.path)
    ghost = events.slice(0, 1).set_column(5, "item_id", pa.array(["ghost"]))
    pq.write_table(pa.concat_tables([events, ghost]), cfg.events.path)
    cfg.catalogue.bad_rows = 0.05
    report = build(cfg, tmp_path / "data")
    rows = pq.read_table(tmp_path / "data" / "quarantine.parquet").to_pylist()
    assert [(r["reason"], r["place"]) for r in rows] == [
        ("duplicate item_id", 65),
        ("unknown item", events.num_rows + 1),
    ]
    assert report["quarantined"] == 2


def test_a_log_of_other_words_is_told_how_to_map_them(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    events = pq.read_table(cfg.events.path)
    words = {"impression": "view", "order": "buy"}
    said = [words.get(action, action) for action in events.column("action").to_pylist()]
    place = events.column_names.index("action")
    pq.write_table(events.set_column(place, "action", pa.array(said)), cfg.events.path)
    rows = f"view ({said.count('view'):,} rows), buy ({said.count('buy'):,} rows)"
    with pytest.raises(ValueError, match="no impressions") as raised:
        build(cfg, tmp_path / "data")
    assert f"maps: {rows}" in str(raised.value)
    assert "events.actions: {view: impression, buy: order}. Or set preference.negatives" in str(
        raised.value
    )
    cfg.events.actions = {"view": "impression", "buy": "order"}
    assert build(cfg, tmp_path / "data")["events"]["unmapped_actions"] == ""


def test_the_stage_says_what_it_left_out(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    events = pq.read_table(cfg.events.path)
    ids, actions = events.column("item_id").to_pylist(), events.column("action").to_pylist()
    assert "\n" not in data_stage(cfg, {}, tmp_path / "data", tmp_path)["summary"]
    ids = [f"[{item}]" if row % 5 == 0 else item for row, item in enumerate(ids)]
    actions = ["buy" if action == "order" else action for action in actions]
    for name, column in (("item_id", ids), ("action", actions)):
        events = events.set_column(events.column_names.index(name), name, pa.array(column))
    pq.write_table(events, cfg.events.path)
    console = Console(width=1000, file=io.StringIO())
    console.print(data_stage(cfg, {}, tmp_path / "again", tmp_path)["summary"])
    _, warning, unused = console.file.getvalue().splitlines()
    assert warning.startswith("WARNING: ")
    assert "(20%) name items that the catalogue does not have, e.g. '[T" in warning
    assert unused.startswith(
        f"not used: actions that nothing maps: buy ({actions.count('buy')} rows)"
    )


def test_profiles_come_from_the_columns_that_the_config_allows(tmp_path: Path) -> None:
    for columns, want in (([], "age_group: 18-29; home: flat"), (["home"], "home: flat")):
        cfg = config(tmp_path, users={"profile": columns})
        build(cfg, tmp_path / "data")
        users = pq.read_table(tmp_path / "data" / "users.parquet")
        assert users.num_rows == 22
        assert want in users.column("profile").to_pylist()
        # hashed as in the log
        assert not any("user" in u for u in users.column("user_id").to_pylist())
        data = open_dataset(tmp_path / "data")
        assert want in {r.prompt.profile for r in data.requests()}
    (tmp_path / "users.csv").write_text("user_id,city\nuser00,  Old   Town \nuser01,nan\n")
    cfg = config(tmp_path, privacy={"hash_users": False})
    cfg.users.path = str(tmp_path / "users.csv")
    build(cfg, tmp_path / "data")
    assert pq.read_table(tmp_path / "data" / "users.parquet").to_pylist() == [
        {"user_id": "user00", "profile": "city: Old Town"},
        {"user_id": "user01", "profile": ""},
    ]
    cfg.users.profile = ["age"]
    with pytest.raises(
        ValueError, match=r"users\.profile: .* no column 'age'; it has user_id, city"
    ):
        build(cfg, tmp_path / "data")


def test_a_failed_build_leaves_no_work_behind(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.split.test_day = 99
    with pytest.raises(ValueError, match="covers 8 day"):
        build(cfg, tmp_path / "data")
    assert not (tmp_path / "data" / ".work").exists()


def test_importing_data_loads_no_torch() -> None:
    code = "import sidar.data, sidar.data.toy, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
