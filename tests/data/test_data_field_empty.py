"""What became empty or tiny, and what a stop leaves: said by `sidar validate`, in words, before
training.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from field_shop import DAY, START, log, run

from sidar.config import Config
from sidar.data.training.health import of_lists


def test_an_ordinary_log_has_no_warning(tmp_path: Path) -> None:
    assert "WARNING" not in run(tmp_path, log(), people="user_id,home\nu0,flat\nu1,house\n")


def test_one_event_years_later_is_told_even_where_the_split_stops(tmp_path: Path) -> None:
    late = {**log()[0], "ts": START + 2600 * DAY, "request_id": "late", "action": "click"}
    message = (
        r"(?s)no request falls into validation.*WARNING: the last 1 of 65 events, from "
        r"2030-12-28 on, come 2,597 days"
    )
    with pytest.raises(ValueError, match=message):
        run(tmp_path, [*log(), late])
    said = run(tmp_path, [*log(), late], split={"test_from": "2023-11-18", "test_days": 1})
    assert "split: {unit: day, test_from: 2023-11-18, test_days: 1}" in said


def test_one_event_years_before_is_told(tmp_path: Path) -> None:
    early = {**log()[0], "ts": START - 900 * DAY, "request_id": "early", "action": "click"}
    assert "WARNING: the first 1 of 65 events, up to 2021-05-29, come 900 days before" in run(
        tmp_path, [early, *log()]
    )


def test_a_window_of_few_requests_is_told(tmp_path: Path) -> None:
    rows = [
        row
        for row in log(requests=40)
        if not (row["ts"] >= START + 3 * DAY and row["request_id"] != "r3-0")
    ]
    assert "WARNING: the test has 1 of 121 requests with a click" in run(tmp_path, rows)
    unclicked = [row for row in log() if row["ts"] < START + 2 * DAY or row["action"] != "click"]
    said = run(tmp_path, unclicked)
    assert "WARNING: none of the 4 requests of validation has a click" in said
    assert "WARNING: none of the 4 requests of the test has a click" in said


def test_queries_that_are_all_empty_are_told(tmp_path: Path) -> None:
    rows = [{**row, "query": ""} for row in log()]
    assert "WARNING: none of the 64 events has a query (column 'query')" in run(tmp_path, rows)
    renamed = [
        {("search" if key == "query" else key): value for key, value in row.items()}
        for row in log()
    ]
    assert "has a query" in run(tmp_path, renamed)  # the column of another name was never read
    assert "has a query" not in run(tmp_path, renamed, events={"columns": {"query": "search"}})


def test_a_log_that_no_weight_of_reranking_can_be_chosen_on_is_told(tmp_path: Path) -> None:
    rows = [{**row, "query": ""} for row in log()]
    assert "so the bundle will not rerank" in run(tmp_path, rows, decode={"rerank": "dense"})
    assert "will not rerank" not in run(tmp_path, rows)
    assert "will not rerank" not in run(tmp_path, log(), decode={"rerank": "dense"})


def test_lists_without_negatives_are_told(tmp_path: Path) -> None:
    clicked = [{**row, "action": "click"} for row in log() if row["action"] == "impression"]
    some = [{**row, "action": "impression"} for row in clicked[:2]]
    assert "WARNING: 11 of 12 lists have no negative" in run(tmp_path, [*some, *clicked[2:]])
    # only what was clicked was logged as shown
    again = [row for row in log() if row["position"] == 2]
    assert "WARNING: none of 12 lists has a negative" in run(tmp_path, again)


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ("user_id,home\n0017,flat\n", "0 of the log's 4 users are in"),
        ("user_id,home\nu0,\nu1,\n", "all 2 profiles of"),
        ("user_id,home\nu0,flat\n,house\nu1,flat\n", "1 rows of"),
        ("user_id,home\nu0,flat\nu0,house\n", "1 users of"),
    ],
)
def test_users_that_vanish_are_told(tmp_path: Path, users: str, message: str) -> None:
    assert f"WARNING: {message}" in run(tmp_path, log(), people=users)


def test_ids_of_users_are_shown_only_where_they_are_not_hashed(tmp_path: Path) -> None:
    users = "user_id,home\n0017,flat\n"
    assert "(an id of the log looks like 'a9', of the file '9999')" in run(
        tmp_path, log(), people=users
    )
    plain = run(tmp_path, log(), people=users, privacy={"hash_users": False})
    assert "(an id of the log is 'u0', of the file '0017')" in plain


def test_the_users_file_has_a_mapping_and_a_limit_of_bad_rows(tmp_path: Path) -> None:
    users = {"columns": {"user_id": "customer"}, "profile": ["home"]}
    assert "WARNING" not in run(
        tmp_path, log(), people="customer;home\nu0;flat\nu1;house\n", users=users
    )
    with pytest.raises(
        ValueError,
        match=r"users.csv: 1 of 3 rows are malformed.*e.g. users.csv, record 3, .*'u1;b;c'",
    ):
        run(tmp_path, log(), people="customer;home\nu0;flat\nu1;b;c\nu2;flat\n", users=users)
    said = run(
        tmp_path, log(), people="customer;home\nu0;flat\nu1;b;c\n", users={**users, "bad_rows": 0.5}
    )
    assert "WARNING: 1 rows of" in said


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("ts", "n/a", "ts 'n/a'"),
        ("position", "first", "position 'first'"),
        ("item_id", "", "missing item_id"),
        ("ts", "4.5e9", "ts '4.5e9'"),
        ("ts", "15/11/2023 10:30", "ts '15/11/2023 10:30'"),
        ("ts", "05/11/2023 10:30", "ts '05/11/2023 10:30'"),
    ],
)
def test_a_stop_shows_a_row_and_leaves_them_all(
    tmp_path: Path, column: str, value: str, shown: str
) -> None:
    rows = log()
    for row in rows[1:4]:
        row[column] = value
    with pytest.raises(
        ValueError, match=rf"events.csv, record 3, {shown}(?s:.*)run/data/quarantine.parquet"
    ):
        run(tmp_path, rows)
    kept = pq.read_table(tmp_path / "run" / "data" / "quarantine.parquet").to_pylist()
    assert [row["place"] for row in kept] == [3, 4, 5]


def test_a_stop_leaves_an_older_data_folder_as_it_is(tmp_path: Path) -> None:
    rows = log()
    rows[0]["ts"] = "?"
    (tmp_path / "run" / "data").mkdir(parents=True)
    manifest = {
        "kind": "data",
        "config": {},
        "inputs": {},
        "files": {},
        "shapes": {},
        "code_version": "",
        "created": "",
    }
    (tmp_path / "run" / "data" / "manifest.json").write_text(
        json.dumps({**manifest, "seconds": 0.0})
    )
    with pytest.raises(ValueError, match=r"1 refused row: .*run/quarantine.parquet"):
        run(tmp_path, rows)
    assert not (tmp_path / "run" / "data" / "quarantine.parquet").exists()


def test_items_without_a_match_show_an_id_of_either_side(tmp_path: Path) -> None:
    rows = [{**row, "item_id": f"sku-{row['item_id']}"} for row in log()]
    with pytest.raises(
        ValueError, match=r"none of 64 rows is usable.*e.g. 'sku-P\d+' .*of the catalogue is 'P0'"
    ):
        run(tmp_path, rows)


@pytest.mark.parametrize(
    ("ids", "people"),
    [
        ("{}.0", "user_id,home\n0,flat\n1,house\n"),
        ("{}", "user_id,home\n0.0,flat\n1.0,house\n"),
        ("{}.0", '{"user_id": 0, "home": "flat"}\n{"user_id": 1.0, "home": "house"}\n'),
    ],
)
def test_profiles_reach_requests_whatever_type_the_ids_of_either_side_had(
    tmp_path: Path, ids: str, people: str
) -> None:
    rows = [{**row, "user_id": ids.format(str(row["user_id"])[1:])} for row in log()]
    path = tmp_path / ("people.jsonl" if people.startswith("{") else "people.csv")
    path.write_text(people)
    # all columns are the profile
    assert "WARNING" not in run(tmp_path, rows, users={"path": str(path)})
    made = (
        pq.read_table(tmp_path / "out" / "requests.parquet", columns=["profile"])
        .column(0)
        .to_pylist()
    )
    assert set(made) == {"", "home: flat", "home: house"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("users.csv", "\ufeffuser_id;home\nu0;flat\nu1;house\n"),
        ("users.tsv.gz", "user_id\thome\nu0\tflat\nu1\thouse\n"),
        (
            "users.jsonl",
            '{"user_id": "u0", "home": "fl\u2028at"}\n{"user_id": "u1", "home": "house"}\n',
        ),
        ("users/part-0.csv", 'user_id,home\nu0,"fl\nat"\nu1,house\n'),
    ],
)
def test_users_come_in_any_format_of_a_log(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    users = {"path": str(path if path.parent == tmp_path else path.parent), "profile": ["home"]}
    assert "WARNING" not in run(tmp_path, log(), users=users)
    made = (
        pq.read_table(tmp_path / "out" / "requests.parquet", columns=["profile"])
        .column(0)
        .to_pylist()
    )
    assert {profile.replace("fl at", "flat") for profile in made} == {
        "",
        "home: flat",
        "home: house",
    }


@pytest.mark.parametrize(
    ("negatives", "total", "without", "want"),
    [
        ("shown", 0, 0, "no request gives a list"),
        ("shown", 10, 5, None),
        ("shown", 10, 6, "6 of 10 lists have no negative (all that was shown was chosen)"),
        ("shown", 10, 10, "none of 10 lists has a negative (all that was shown was chosen)"),
        ("sampled", 10, 10, "none of 10 lists has a negative (the catalogue has no other items)"),
        (
            "skip_above",
            10,
            9,
            "9 of 10 lists have no negative (nothing stands above the lowest click)",
        ),
        ("beam", 10, 10, None),
    ],
)
def test_lists_without_a_negative_are_told_from_the_half_on(
    negatives: str, total: int, without: int, want: str | None
) -> None:
    cfg = Config.model_validate({"preference": {"negatives": negatives}})
    told = of_lists(cfg, {"total": total, "without_negatives": without})
    assert [each[: len(want or "")] for each in told] == ([want] if want else [])
