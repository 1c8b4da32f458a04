"""Judged queries, qrels and held-out queries as others write them: right, or an error with file and
record.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidar.config import EvalSetConfig, HeldOutConfig
from sidar.data import toy
from sidar.data.judgments.evalsets import StoredSet
from sidar.data.judgments.judged import read_file_set, read_held_out

ITEMS = toy.catalogue()
QUERIES = "query_id,query\nq1,pan\nq2,pot\n"
QRELS = "query_id,item_id,grade\nq1,T000,1\nq2,T001,2\n"


def read(
    folder: Path, queries: str | bytes, qrels: str | bytes, names=("q.csv", "r.csv"), **options
) -> StoredSet:
    paths = []
    for name, content in zip(names, (queries, qrels), strict=True):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        paths.append(str(path))
    return read_file_set(
        EvalSetConfig(name="s", queries=paths[0], qrels=paths[1], **options), ITEMS, None
    )


def said(stored: StoredSet) -> tuple[dict, dict]:
    evalset = stored.evalset
    queries = {
        i: prompt.query for i, prompt in zip(evalset.query_ids, evalset.prompts, strict=True)
    }
    return queries, dict(evalset.qrels)


WANT = ({"q1": "pan", "q2": "pot"}, {"q1": {"T000": 1.0}, "q2": {"T001": 2.0}})


@pytest.mark.parametrize(
    ("queries", "qrels", "names"),
    [
        pytest.param(QUERIES, QRELS, ("q.csv.gz", "r.csv.gz"), id="gzip"),
        pytest.param(
            "\ufeff" + QUERIES, "\ufeff" + QRELS, ("q.csv", "r.csv"), id=("byte order mark")
        ),
        pytest.param(
            QUERIES.replace(",", "|"), QRELS.replace(",", ";"), ("q.csv", "r.txt"), id="delimiters"
        ),
        pytest.param(
            (
                '{"_id": "q1", "text": "pan", "metadata": {}}\n{"_id": "q2", "text": "pot", '
                '"metadata": {}}\n'
            ),
            "query-id\tcorpus-id\tscore\nq1\tT000\t1\nq2\tT001\t2\n",
            ("queries.jsonl", "test.tsv"),
            id="BEIR",
        ),
        pytest.param(
            "query_id\tquery\tquery_class\nq1\tpan\tPans\nq2\tpot\t\n",
            "id\tquery_id\tproduct_id\tlabel\n0\tq1\tT000\t1\n1\tq2\tT001\t2\n",
            ("query.csv", "label.csv"),
            id="WANDS",
        ),
        pytest.param(
            QUERIES, "q1 0 T000 1\nq2 Q0 T001 2.0\n", ("q.csv", "qrels"), id="TREC with spaces"
        ),
        pytest.param(
            QUERIES,
            "\ufeffq1\t0\tT000\t1\r\n\nq2\t0\tT001\t2\r\n",
            ("q.csv", "r.tsv"),
            id=("TREC, Windows"),
        ),
        pytest.param(
            QUERIES, "q1 0 T000 1\nq2 0 T001 2\n", ("q.csv", "r.qrels.gz"), id="TREC, gzip"
        ),
        pytest.param(
            "QID,Query\nq1,pan\nq2,pot\n",
            "Query ID,DocId,Rating\nq1,T000,1\nq2,T001,2\n",
            ("q.csv", "r.csv"),
            id="upper case",
        ),
    ],
)
def test_what_others_write_reads_alike(
    tmp_path: Path, queries: str, qrels: str, names: tuple[str, str]
) -> None:
    assert said(read(tmp_path, queries, qrels, names)) == WANT


def test_doubled_quotes_and_commas_of_a_tab_separated_file_stay_in_the_query(
    tmp_path: Path,
) -> None:
    queries = (
        'query_id\tquery\tquery_class\nq1\t"red 36"" lamp"\tLamps\nq2\tblue, kettle\tKettles\n'
    )
    texts = {"q1": 'red 36" lamp', "q2": "blue, kettle"}
    assert said(read(tmp_path, queries, QRELS, ("query.csv", "r.csv"))) == (texts, WANT[1])


def test_quepid_joins_by_the_text_of_the_query_also_from_one_file(tmp_path: Path) -> None:
    judgments = 'query,docid,rating\n"pan, deep",T000,1\n"pan, deep",T001,0\npot,T001,2\n'
    (tmp_path / "quepid.csv").write_text(judgments)
    path = str(tmp_path / "quepid.csv")
    stored = read_file_set(EvalSetConfig(name="s", queries=path, qrels=path), ITEMS, None)
    qrels = {"pan, deep": {"T000": 1.0, "T001": 0.0}, "pot": {"T001": 2.0}}
    assert said(stored) == ({"pan, deep": "pan, deep", "pot": "pot"}, qrels)


def test_folders_and_globs_hold_one_set(tmp_path: Path) -> None:
    for part, lines in enumerate((["q1,pan"], ["q2,pot"])):
        (tmp_path / "queries").mkdir(exist_ok=True)
        (tmp_path / "queries" / f"part-{part}.csv").write_text(
            "\n".join(["query_id,query", *lines, ""])
        )
    rows = (("q1", "T000", 1), ("q2", "T001", 2))
    for part, (query_id, item_id, grade) in enumerate(rows):
        table = pa.table({"query_id": [query_id], "item_id": [item_id], "grade": [grade]})
        pq.write_table(table, tmp_path / f"qrels-{part}.parquet")
    config = EvalSetConfig(
        name="s", queries=str(tmp_path / "queries"), qrels=str(tmp_path / "qrels-*.parquet")
    )
    assert said(read_file_set(config, ITEMS, None)) == WANT


def test_line_separators_of_unicode_end_no_record(tmp_path: Path) -> None:
    tsv = "query_id\tquery\nq1\tpan\x0bdeep\nq2\tpot\x85round\x1c\n"
    assert said(read(tmp_path, tsv, QRELS, ("q.tsv", "r.csv")))[0] == {
        "q1": "pan deep",
        "q2": "pot round",
    }
    jsonl = '{"query_id": "q1", "query": "pan\u2028deep"}\n{"query_id": "q2", "query": "pot\x85"}\n'
    queries, _ = said(read(tmp_path, jsonl, QRELS, ("q.jsonl", "r.csv")))
    assert queries == {"q1": "pan deep", "q2": "pot"}


def test_a_mapping_names_any_column_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    queries, qrels = (
        "key,words\nq1,pan\nq2,pot\n",
        "key,thing,stars,score\nq1,T000,1,9\nq2,T001,2,9\n",
    )
    columns = {"query_id": "key", "query": "words", "item_id": "thing", "grade": "stars"}
    assert said(read(tmp_path, queries, qrels, columns=columns)) == WANT
    with pytest.raises(
        ValueError, match=r"columns.grade: .*r.csv has no column 'star'; it has key, thing"
    ):
        read(tmp_path, queries, qrels, columns={**columns, "grade": "star"})
    with pytest.raises(ValueError, match="'rating' and 'label' could both be grade"):
        read(tmp_path, QUERIES, "query_id,item_id,label,rating\nq1,T000,1,2\n")


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1,T000,1\nq1,T000,1\n", r"judged twice .*the same grade.*record 2 and .*record 3"),
        ("q1,T000,1\nq1,T000,-1\n", r"judged twice .*1 and -1"),
        ("q1,T000,nan\n", r"record 2: grade 'nan' of query 'q1'"),
        ("q1,T000,inf\n", r"record 2: grade 'inf'"),
        ("q1,T000,\n", r"record 2: grade None"),
        ("q1,,1\n", r"record 2 has no item_id"),
        (",T000,1\n", r"record 2 has no query_id"),
        ('q1,T000,1\nq2,"T001,2\n', r"record 3 cannot be read"),
        ("q7,T000,1\n", r"1 of 1 judgments name queries .*'q7' \(an id there is 'q1'\)"),
        ("q1,t000,1\n", r"1 of 1 judgments name items .*'t000' \(an id there is 'T000'\)"),
    ],
)
def test_wrong_judgments_are_refused_with_their_place(
    tmp_path: Path, qrels: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, QUERIES, "query_id,item_id,grade\n" + qrels)


def test_negative_grades_are_kept_and_unknown_queries_counted(tmp_path: Path) -> None:
    stored = read(tmp_path, QUERIES, QRELS + "q1,T001,-1\nq9,T000,1\n")
    assert stored.evalset.qrels["q1"] == {"T000": 1.0, "T001": -1.0}
    assert stored.dropped["judgments_of_unknown_queries"] == 1
    assert ["name queries" in each for each in stored.warnings] == [True]


def test_a_set_that_decides_nothing_is_told(tmp_path: Path) -> None:
    stored = read(
        tmp_path, "query_id,query,history\nq1,,X1 X2\n", "query_id,item_id,grade\nq1,T000,0\n"
    )
    texts, grades, history = stored.warnings
    assert "1 of 1 queries have no text" in texts
    assert "no judgment has a grade above 0" in grades
    assert (
        "no item of the column history is in the catalogue, e.g. 'X1' (an id there is 'T000')"
        in history
    )


def test_held_out_queries_may_be_one_column_with_commas_or_another_name(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text('query\nblue, kettle\n"red, lamp"\n')
    assert read_held_out(HeldOutConfig(queries=str(tmp_path / "plain.csv"))) == [
        "blue, kettle",
        "red, lamp",
    ]
    (tmp_path / "other.tsv").write_text("n\tsuche\n1\tblue kettle\n")
    held = HeldOutConfig(queries=str(tmp_path / "other.tsv"), columns={"query": "suche"})
    assert read_held_out(held) == ["blue kettle"]


def test_queries_without_a_header_and_files_of_other_kinds_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"q.tsv has no column 'query' \(it has q1, pan\).* a first line with the names",
    ):
        read(tmp_path, "q1\tpan\nq2\tpot\n", QRELS, ("q.tsv", "r.csv"))
    with pytest.raises(ValueError, match=r"r.xlsx has none of the known endings"):
        read(tmp_path, QUERIES, QRELS, ("q.csv", "r.xlsx"))
    with pytest.raises(ValueError, match=r"q.csv is UTF-16"):
        read(tmp_path, QUERIES.encode("utf-16"), QRELS)
    with pytest.raises(ValueError, match=r"q.csv, record 3 cannot be read \(not UTF-8\)"):
        read(tmp_path, "query_id,query\nq1,pan\nq2,p\u00f6t\n".encode("latin-1"), QRELS)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_columns_that_no_set_wants_may_hold_anything(tmp_path: Path, suffix: str) -> None:
    """Metadata of other kinds is not read, so it cannot be refused."""
    queries: dict = {"_id": ["q1", "q2"], "text": ["pan", "12.0"]}
    if suffix == "csv":
        (tmp_path / "q.csv").write_text("_id,text,hash\nq1,pan,1.23457E+12\nq2,12.0,\n")
    else:
        pq.write_table(
            pa.table({**queries, "metadata": [{"a": [1]}, None]}), tmp_path / "q.parquet"
        )
    (tmp_path / "r.csv").write_text(QRELS)
    config = EvalSetConfig(
        name="s", queries=str(tmp_path / f"q.{suffix}"), qrels=str(tmp_path / "r.csv")
    )
    # a text, no number
    assert said(read_file_set(config, ITEMS, None))[0] == {"q1": "pan", "q2": "12.0"}


def test_json_lists_of_records_are_sets_too(tmp_path: Path) -> None:
    queries = json.dumps(
        [{"query_id": "q1", "query": "pan"}, {"query_id": "q2", "query": "pot"}], indent=1
    )
    qrels = [
        {"query_id": "q1", "item_id": "T000", "grade": 1},
        {"query_id": "q2", "item_id": "T001", "grade": 2.0},
    ]
    for names in (("q.json", "r.json"), ("q.json.gz", "r.json.gz")):
        assert said(read(tmp_path, queries, json.dumps(qrels), names)) == WANT
    assert said(read(tmp_path, queries, QRELS.replace(",", "\t"), ("q.json", "r.txt"))) == WANT
    other = json.dumps({"q1": {"T000": 1}})  # no records: told, with a name that stands in the file
    with pytest.raises(ValueError, match=r"r\.json.*q1"):
        read(tmp_path, QUERIES, other, ("q.csv", "r.json"))


@pytest.mark.parametrize(
    "history",
    [
        "['T003', 'T004']",
        ('["T003", "T004"]'),
        "('T003', 'T004')",
        "T003 T004",
        "['T003' 'T004']",
        "array(['T003', 'T004'], dtype=object)",
    ],
)
def test_histories_are_read_as_any_list_that_is_written(tmp_path: Path, history: str) -> None:
    quoted = history.replace('"', '""')
    stored = read(tmp_path, f'query_id,query,history\nq1,pan,"{quoted}"\n', QRELS)
    assert stored.evalset.prompts[0].history == (3, 4)
    assert stored.dropped["history_items_unknown"] == 0
