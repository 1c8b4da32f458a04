"""Request ids that name more than one request: split where that is safe, and told
with the count.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from field_shop import DAY, START, log, run


def requests(folder: Path) -> list[dict]:
    columns = ["request_id", "user_id", "query", "rows", "actions", "split"]
    return pq.read_table(folder / "out" / "requests.parquet", columns=columns).to_pylist()


def test_a_counter_that_starts_again_each_day_is_split(tmp_path: Path) -> None:
    rows = [
        {**row, "request_id": str(row["request_id"]).split("-")[1], "query": "mug"} for row in log()
    ]
    said = run(tmp_path, rows)
    assert "WARNING: 4 request ids stand for several requests of one user" in said
    assert "were split into 16 requests" in said
    made = requests(tmp_path)
    assert len(made) == 16
    # each click with its own list
    assert {(len(each["rows"]), sum(each["actions"])) for each in made} == {(3, 1)}
    assert len({each["request_id"] for each in made}) == 16


def test_one_id_for_all_queries_of_a_user_is_split_by_query_in_any_case(tmp_path: Path) -> None:
    rows = [
        {**row, "request_id": "1", "query": f"mug {(row['ts'] - START) // 600 // 6}"}
        for row in log(requests=1)
    ]
    rows += [
        {**row, "ts": row["ts"] + 900, "request_id": "1", "query": "LAMP"}
        for row in log(requests=1)
    ]
    rows += [
        {**row, "ts": row["ts"] + 901, "request_id": "1", "query": "lamp"}
        for row in log(requests=1)
    ]
    run(tmp_path, rows)
    assert len(requests(tmp_path)) == 8  # four days, mug and lamp on each


def test_sessions_part_an_id_also_without_users(tmp_path: Path) -> None:
    rows = [
        {
            **row,
            "user_id": "",
            "session_id": row["request_id"],
            "request_id": 1,
            "query": "mug",
            "ts": row["ts"] // DAY * DAY,
        }
        for row in log()
    ]
    run(tmp_path, rows)
    made = requests(tmp_path)
    assert len(made) == 16
    assert {sum(each["actions"]) for each in made} == {1}


def test_late_orders_other_spellings_and_empty_queries_stay_with_their_list(tmp_path: Path) -> None:
    rows = log()
    first = rows[:4]
    later = [
        {**first[3], "ts": START + 3600, "query": "", "action": "cart"},
        {**first[3], "ts": START + 2 * DAY, "query": "itm 0", "action": "order"},
    ]
    said = run(tmp_path, rows + later)
    assert "request ids" not in said
    assert len(requests(tmp_path)) == 16
    # also where the id is split
    again = [{**row, "ts": row["ts"] + 3 * DAY, "query": "kettle"} for row in first]
    run(tmp_path, rows + later + again)
    made = [each for each in requests(tmp_path) if each["request_id"].startswith("r0-0")]
    assert [max(each["actions"]) for each in made] == [3, 1]


def test_ids_of_several_users_are_requests_of_each_and_keep_their_judgments(tmp_path: Path) -> None:
    rows = [{**row, "request_id": str(row["request_id"]).split("-")[0]} for row in log()]
    assert "WARNING: 4 request ids occur with more than one user" in run(tmp_path, rows)
    assert len(requests(tmp_path)) == 16
    sets = pq.read_table(tmp_path / "out" / "eval" / "day4-clicks.queries.parquet").to_pylist()
    assert len({each["query_id"] for each in sets}) == 4


def test_fractions_count_the_requests_that_come_out(tmp_path: Path) -> None:
    rows = [{**row, "request_id": "1", "query": "mug"} for row in log(days=10, requests=1)]
    run(tmp_path, rows, split={"unit": "fraction"})
    assert [each["split"] for each in requests(tmp_path)] == ["train"] * 8 + ["valid", "test"]
