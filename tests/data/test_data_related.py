"""``split.history: related``: histories of products of categories that the query is about."""

import pyarrow as pa
import pyarrow.parquet as pq
from toy_stages import config

from sidar.data import build, open_dataset, toy
from sidar.data.training.related import RelatedCategories, keep_related
from sidar.types import Catalogue

ITEMS = [
    ("red cotton towel", ["home", "bath", "towels"]),
    ("blue towel rack", ["home", "bath", "racks"]),
    ("red garden chair", ["garden", "chairs"]),
    ("usb cable", ["tech", "cables"]),
    ("red usb lamp", ["tech", "lamps"]),
    ("plain thing", None),
]


def catalogue():
    table = pa.table(
        {
            "item_id": [f"i{n}" for n in range(len(ITEMS))],
            "title": [title for title, _ in ITEMS],
            "category": pa.array([path for _, path in ITEMS], pa.list_(pa.string())),
        }
    )
    return Catalogue(table, "toy")


def test_words_vote_for_categories_as_worked_by_hand():
    """ "red towel": `towel` is twice in home/bath; `red` once each in three categories, 1/3."""
    related = RelatedCategories(catalogue(), depth=2, most=2)
    assert related.of("red towel") == {("home", "bath"), ("garden", "chairs")}  # 4/3, then a tie
    assert related.of("Towel") == {("home", "bath")}
    assert related.of("zebra") == set()


def test_a_history_keeps_its_order_and_what_is_related():
    related = RelatedCategories(catalogue(), depth=2, most=1)
    assert related.keep("towel", [3, 1, 2, 0, 5]) == [1, 0]
    assert related.keep("zebra", [3, 1]) == [3, 1]  # a query that says nothing drops nothing
    assert related.keep("", [4]) == [4]


def test_the_file_keeps_its_columns_and_other_values(tmp_path):
    path = tmp_path / "requests.parquet"
    table = pa.table(
        {
            "query": ["towel", "usb"],
            "history": pa.array([[3, 0], [0, 3, 4]], pa.list_(pa.int32())),
            "ts": [1, 2],
        }
    )
    pq.write_table(table, path)
    keep_related(path, catalogue())
    kept = pq.read_table(path)
    assert kept.schema.equals(table.schema)
    assert kept.column("history").to_pylist() == [[0], [3, 4]]
    assert kept.column("ts").to_pylist() == [1, 2]


def test_a_run_with_related_histories_trains_and_tests_on_them(tmp_path):
    toy.write_inputs(tmp_path / "inputs")
    build(config(tmp_path / "inputs", split={"history": "related"}), tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    related, depth = RelatedCategories(data.catalogue), 0
    cut = {}
    for request in data.requests():
        history = list(request.prompt.history)
        assert history == related.keep(request.prompt.query, history)
        cut[request.request_id] = history
        depth += len(history)
    assert depth > 0
    for table in (data.sft(), data.lists("train"), data.lists("valid")):
        for row in table.select(["request_id", "history"]).to_pylist():
            assert row["history"] == cut[row["request_id"]]
