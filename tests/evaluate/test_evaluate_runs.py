import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.data import toy
from sidar.evaluate import (
    evaluate,
    hits_from_run,
    read_qrels,
    read_trec,
    run_from_hits,
    write_qrels,
    write_trec,
)
from sidar.evaluate.runs import id_of_trec, strict_scores, trec_id, write_trec_hits
from sidar.types import Hits


@pytest.fixture(scope="module")
def catalogue():
    return toy.catalogue()


def some_hits(seed=0, queries=5, k=7, n=64):
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(n)[:k] for _ in range(queries)]).astype(np.int32)
    rows[1, 4:] = -1
    return Hits(rows, -np.sort(-rng.random((queries, k)), axis=1).astype(np.float32))


def test_rows_become_ids_and_scores_stay(catalogue):
    hits = some_hits()
    run = run_from_hits(hits, list("abcde"), catalogue)
    assert [item for item, _ in run["a"]] == catalogue.item_ids[hits.rows[0]].tolist()
    assert [score for _, score in run["a"]] == hits.scores[0].tolist()
    assert len(run["b"]) == 4


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.floats(-1024, 1024, width=32), min_size=4, max_size=4), min_size=1, max_size=5
    )
)
def test_scores_are_strictly_decreasing_whatever_comes_in(scores):
    ranked = -np.sort(-np.array(scores), axis=1)
    out = strict_scores(ranked, np.ones(ranked.shape, dtype=bool))
    assert (np.diff(out, axis=1) < 0).all()
    untied = (np.diff(ranked.astype(np.float32), axis=1) < 0).all(axis=1)
    assert (out[untied] == ranked.astype(np.float32)[untied]).all()


def test_the_first_query_with_bad_scores_is_named():
    scores = np.array([[3, 2, 1], [1, 2, 3], [3, 2, 1]], np.float32)
    with pytest.raises(ValueError, match=r"query number 1 .* scores that rise"):
        strict_scores(scores, np.ones((3, 3), bool))
    with pytest.raises(ValueError, match=r"query number 2 .* a gap"):
        strict_scores(-np.sort(-scores), np.array([[1, 1, 0], [1, 1, 1], [1, 0, 1]], bool))


def test_equal_scores_become_ranks_so_that_no_tool_reorders_them(catalogue, tmp_path):
    hits = Hits(np.arange(6, dtype=np.int32)[None, ::-1].copy(), np.zeros((1, 6), np.float32))
    run = run_from_hits(hits, ["q"], catalogue)
    assert [score for _, score in run["q"]] == [6, 5, 4, 3, 2, 1]
    write_trec(tmp_path / "x.trec", run)
    qrels = {"q": {run["q"][1][0]: 1}}
    [row] = ir_measures.iter_calc(
        [ir_measures.RR], qrels, ir_measures.read_trec_run(str(tmp_path / "x.trec"))
    )
    assert row.value == evaluate(qrels, run, ["mrr"])["mrr"][0] == 0.5


def test_trec_round_trip_both_writers_and_ir_measures_agree(catalogue, tmp_path):
    hits, ids = some_hits(), list("abcde")
    run = run_from_hits(hits, ids, catalogue)
    write_trec(tmp_path / "a.trec", run, tag="bm25")
    write_trec_hits(tmp_path / "b.trec", hits, ids, catalogue, tag="bm25")
    assert (tmp_path / "a.trec").read_text() == (tmp_path / "b.trec").read_text()
    assert (tmp_path / "a.trec").read_text().splitlines()[0].split()[:4:3] == ["a", "1"]
    read = read_trec(tmp_path / "a.trec")
    assert {q: [item for item, _ in results] for q, results in read.items()} == {
        q: [item for item, _ in results] for q, results in run.items()
    }
    for query_id in ids:  # nine digits carry a float32 exactly
        assert [np.float32(s) for _, s in read[query_id]] == [
            np.float32(s) for _, s in run[query_id]
        ]
    theirs = {
        (d.query_id, d.doc_id): d.score for d in ir_measures.read_trec_run(str(tmp_path / "a.trec"))
    }
    assert theirs == {(q, item): score for q, results in read.items() for item, score in results}


def test_hits_from_run_drops_strangers(catalogue):
    run = {"q": [("stranger", 3.0), (catalogue.item_ids[5], 2.0), (catalogue.item_ids[2], 1.0)]}
    hits = hits_from_run(run, ["q", "empty"], catalogue)
    assert hits.rows.tolist() == [[5, 2], [-1, -1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 2.0\n", r"bad\.trec:1: 5 columns"),
        (
            "q Q0 d 1 2.0 t\n\nq Q0 e 2 high t\n",
            r"bad\.trec:3: score 'high' is not a finite number",
        ),
        (
            "q Q0 d 1 2.0 t\nq Q0 d 2 1.0 t\n",
            r"bad\.trec:2: item 'd' is listed twice for query 'q'",
        ),
        ("q Q0 d 1 nan t\n", r"bad\.trec:1: score 'nan'"),
    ],
)
def test_a_bad_run_line_is_named(tmp_path, text, message):
    (tmp_path / "bad.trec").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trec(tmp_path / "bad.trec")


def test_reading_sorts_by_score_and_ignores_ranks(tmp_path):
    (tmp_path / "r.trec").write_text("q Q0 low 1 1.0 t\nq Q0 high 2 9.0 t\n")
    assert read_trec(tmp_path / "r.trec") == {"q": [("high", 9.0), ("low", 1.0)]}


@settings(deadline=None, max_examples=80)
@given(st.text(min_size=1, max_size=8).filter(lambda t: t.isprintable() or t.isspace()))
def test_every_id_is_one_word_in_a_trec_file_and_comes_back(text):
    word = trec_id(text)
    assert word.split() == [word]
    assert id_of_trec(word) == text


def test_ids_with_spaces_survive_run_and_judgment_files(tmp_path):
    run = {"t towels": [("SKU 12", 2.0), ("50%off", 1.0)]}
    write_trec(tmp_path / "x.trec", run, tag="my system")
    assert read_trec(tmp_path / "x.trec") == run
    assert (tmp_path / "x.trec").read_text().split()[:3] == ["t%20towels", "Q0", "SKU%2012"]
    write_qrels(tmp_path / "x.qrels", {"t towels": {"SKU 12": 1.0}})
    assert read_qrels(tmp_path / "x.qrels") == {"t towels": {"SKU 12": 1.0}}
    assert id_of_trec("caf%C3%A9%41") == "caf%C3%A9%41"  # another tool's codes are left alone
    with pytest.raises(ValueError, match="empty"):
        write_trec(tmp_path / "x.trec", {"": [("d", 1.0)]})


@pytest.mark.parametrize("name", ["j.parquet", "j.tsv", "j.qrels"])
def test_judgments_round_trip(tmp_path, name):
    qrels = {"q1": {"a": 1.0, "b": 0.0}, "q2": {"c": 2.0}}
    write_qrels(tmp_path / name, qrels)
    assert read_qrels(tmp_path / name) == qrels


def test_graded_judgments_in_trec_need_a_scale_and_read_in_ir_measures(tmp_path):
    qrels = {"q": {"e": 1.0, "s": 0.1, "c": 0.01}}
    with pytest.raises(ValueError, match="scale=100"):
        write_qrels(tmp_path / "j.qrels", qrels)
    write_qrels(tmp_path / "j.qrels", qrels, scale=100)
    theirs = {
        (j.query_id, j.doc_id): j.relevance
        for j in ir_measures.read_trec_qrels(str(tmp_path / "j.qrels"))
    }
    assert theirs == {("q", "e"): 100, ("q", "s"): 10, ("q", "c"): 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("j.tsv", "query_id\titem\tgrade\n", "j.tsv:1: the header lacks item_id"),
        ("j.tsv", "query_id\titem_id\tgrade\nq\ta\n", "j.tsv:2: 2 columns where 3"),
        ("j.tsv", "query_id\titem_id\tgrade\nq\ta\tgood\n", "j.tsv:2: grade 'good'"),
        ("j.qrels", "q 0 a 1\nq 0 a 2\n", "j.qrels:2: item 'a' is judged twice for query 'q'"),
    ],
)
def test_a_bad_judgment_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_qrels(tmp_path / name)


def test_bad_parquet_judgments_and_suffixes_are_named(tmp_path):
    pq.write_table(pa.table({"query_id": ["q"], "item_id": ["a"]}), tmp_path / "j.parquet")
    with pytest.raises(ValueError, match="no column grade"):
        read_qrels(tmp_path / "j.parquet")
    with pytest.raises(ValueError, match=r"written as \.parquet"):
        write_qrels(tmp_path / "j.csv", {})
    with pytest.raises(ValueError, match="cannot hold tabs"):
        write_qrels(tmp_path / "j.tsv", {"a\tb": {"x": 1}})


@pytest.mark.parametrize(
    ("rows", "scores", "message"),
    [
        ([[0, 0]], [[2.0, 1.0]], "lists row 0 twice"),
        ([[0, 99]], [[2.0, 1.0]], "outside the catalogue of 64 items"),
        ([[0, 1]], [[1.0, 2.0]], "scores that rise"),
        ([[-1, 1]], [[2.0, 1.0]], "a gap"),
        ([[0, 1], [2, 3]], [[2.0, 1.0], [2.0, 1.0]], r"want \(1, k\)"),
    ],
)
def test_faulty_hits_are_refused(catalogue, rows, scores, message):
    with pytest.raises(ValueError, match=message):
        run_from_hits(
            Hits(np.array(rows, np.int32), np.array(scores, np.float32)), ["q"], catalogue
        )
