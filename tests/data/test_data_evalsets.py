"""Evaluation sets from files and from the log."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidar.config import Config, EvalSetConfig
from sidar.data import build, open_dataset, toy
from sidar.data.evalsets import StoredSet
from sidar.data.judged import read_file_set

ITEMS = toy.catalogue()


def read(folder: Path, queries: str, qrels: str, *, limit: int | None = None, origin: str = "real") -> StoredSet:
    (folder / "q.tsv").write_text(queries, encoding="utf-8")
    (folder / "r.tsv").write_text(qrels)
    config = EvalSetConfig(name="s", queries=str(folder / "q.tsv"), qrels=str(folder / "r.tsv"), origin=origin)
    return read_file_set(config, ITEMS, limit)


def test_tsv_with_history_and_profile_drops_what_nothing_is_known_of(tmp_path: Path) -> None:
    stored = read(
        tmp_path,
        'query_id\tquery\thistory\tprofile\nq1\tpan\'s "best"\tT001 gone T100\tcity\n'
        "q2\tnothing judged\t\t\nq3\tonly strangers\t\t\n",
        "query_id\titem_id\tgrade\nq1\tT000\t1\nq1\tT001\t0.1\nq3\tgone\t1\nq9\tT000\t1\n",
    )
    evalset = stored.evalset
    assert evalset.query_ids == ("q1",)
    assert evalset.qrels == {"q1": {"T000": 1.0, "T001": 0.1}}
    prompt = evalset.prompts[0]
    assert (prompt.query, prompt.history, prompt.profile) == ('pan\'s "best"', (1, 8), "city")
    assert stored.dropped == {"judgments_on_unknown_items": 1, "queries_without_judgments": 2}
    assert stored.held_out == ['pan\'s "best"', "nothing judged", "only strangers"]  # none of them may be trained on


def test_trec_parquet_and_jsonl_say_the_same(tmp_path: Path) -> None:
    want = read(
        tmp_path, "query_id\tquery\nq1\ta pan\n", "query_id\titem_id\tgrade\nq1\tT000\t1\nq1\tT001\t0\n"
    ).evalset
    (tmp_path / "r.trec").write_text("q1 0 T000 1\nq1 0 T001 0\n")
    pq.write_table(pa.table({"query_id": ["q1"], "query": ["a pan"], "history": [[]]}), tmp_path / "q.parquet")
    (tmp_path / "q.jsonl").write_text('{"query_id": "q1", "query": "a pan"}\n')
    (tmp_path / "q.csv").write_text("query_id,query\nq1,a pan\n")
    for name in ("q.parquet", "q.jsonl", "q.csv"):
        config = EvalSetConfig(name="s", queries=str(tmp_path / name), qrels=str(tmp_path / "r.trec"))
        assert read_file_set(config, ITEMS, None).evalset == want


def test_a_quoted_csv_field_may_hold_a_comma(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('query_id,query\nq1,"a pan, deep"\n')
    (tmp_path / "r.csv").write_text("query_id,item_id,grade\nq1,T000,1\n")
    config = EvalSetConfig(name="s", queries=str(tmp_path / "q.csv"), qrels=str(tmp_path / "r.csv"))
    assert read_file_set(config, ITEMS, None).evalset.prompts[0].query == "a pan, deep"


def test_only_simulated_sets_are_capped_and_always_alike(tmp_path: Path) -> None:
    queries = "query_id\tquery\n" + "".join(f"q{n}\ttext {n}\n" for n in range(50))
    qrels = "query_id\titem_id\tgrade\n" + "".join(f"q{n}\tT000\t1\n" for n in range(50))
    assert len(read(tmp_path, queries, qrels, limit=10).evalset) == 50
    capped = read(tmp_path, queries, qrels, limit=10, origin="simulated").evalset
    assert len(capped) == 10
    reversed_rows = "query_id\tquery\n" + "".join(f"q{n}\ttext {n}\n" for n in reversed(range(50)))
    again = read(tmp_path, reversed_rows, qrels, limit=10, origin="simulated").evalset
    assert set(again.query_ids) == set(capped.query_ids) != {f"q{n}" for n in range(10)}


@pytest.mark.parametrize(
    ("queries", "qrels", "said"),
    [
        ("query_id\tquery\nq\ta\nq\tb\n", "query_id\titem_id\tgrade\nq\tT000\t1\n", "'q' occurs twice"),
        ("id\tquery\nq\ta\n", "query_id\titem_id\tgrade\nq\tT000\t1\n", "no column 'query_id'"),
        ("query_id\tquery\nq\ta\n", "query_id\titem_id\tgrade\nq\tT000\thigh\n", "grade 'high' of query 'q'"),
        ("query_id\tquery\nq\ta\n", "query_id\titem_id\tgrade\nq\tT000\n", "line 2 has 2 columns"),
        ("query_id\tquery\nq\ta\n", "query_id\titem_id\tgrade\nq\tgone\t1\n", "no query of"),
        ("", "query_id\titem_id\tgrade\nq\tgone\t1\n", "no column 'query_id'"),
    ],
)
def test_broken_sets_say_where(tmp_path: Path, queries: str, qrels: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(tmp_path, queries, qrels)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    config = EvalSetConfig(name="s", queries=str(tmp_path / "no.tsv"), qrels="x")
    with pytest.raises(ValueError, match=r"no\.tsv does not exist"):
        read_file_set(config, ITEMS, None)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("shop")
    paths = toy.write_inputs(folder)
    cfg = Config.model_validate({"threads": 1, "evaluate": {"targets": ["click", "order", "random_click"]}})
    cfg.catalogue.path, cfg.events.path, cfg.users.path = (str(paths[n]) for n in ("catalogue", "events", "users"))
    cfg.evaluate.sets = [
        EvalSetConfig(name=f"toy-{r}", queries=str(paths[f"{r}.queries"]), qrels=str(paths[f"{r}.qrels"]), role=r)
        for r in ("valid", "test")
    ]
    return folder, cfg


def test_log_sets_hold_the_days_targets_with_history_and_profile(shop: tuple[Path, Config]) -> None:
    folder, cfg = shop
    build(cfg, folder / "data")
    data = open_dataset(folder / "data")
    assert [s.name for s in data.eval_sets("valid")] == [
        "toy-valid",
        "day7-clicks",
        "day7-orders",
        "day7-random-clicks",
    ]
    sets = {s.name: s for s in data.eval_sets()}
    requests = {r.request_id: r for r in data.requests("test")}
    ids = data.catalogue.item_ids
    for name, least, random_only in (("clicks", 1, False), ("orders", 3, False), ("random-clicks", 1, True)):
        made = sets[f"day8-{name}"]
        want = {
            i: {ids[row]: 1.0 for row, action in zip(r.rows, r.actions, strict=True) if action >= least}
            for i, r in requests.items()
            if (r.bucket == "random" or not random_only) and max(r.actions) >= least
        }
        assert made.qrels == want
        assert made.origin == "log"
        assert all(p == requests[i].prompt for i, p in zip(made.query_ids, made.prompts, strict=True))
    judged = sets["toy-test"]
    assert judged.qrels == toy.judged("test").qrels
    assert judged.prompts == toy.judged("test").prompts


def test_slices_follow_training_days(shop: tuple[Path, Config]) -> None:
    folder, cfg = shop
    build(cfg, folder / "data")
    data = open_dataset(folder / "data")
    labels = data.priors().popularity()
    trained = {r.prompt.query for r in data.requests("train")}
    for evalset in data.eval_sets():
        for n, (i, prompt) in enumerate(zip(evalset.query_ids, evalset.prompts, strict=True)):
            best = max(evalset.qrels[i].values())
            rows = data.catalogue.rows(item for item, grade in evalset.qrels[i].items() if grade == best)
            clicks = data.priors().clicks[rows]
            assert evalset.slices["popularity"][n] in set(labels[rows[clicks == clicks.max()]])
            assert evalset.slices["query"][n] == ("seen" if prompt.query in trained else "unseen")
    assert set(sets_of(data, "toy-test").slices["query"]) == {"unseen"}
    assert "seen" in set(sets_of(data, "day8-clicks").slices["query"])


def sets_of(data, name: str):
    return next(s for s in data.eval_sets() if s.name == name)


def test_log_sets_are_capped_by_a_stable_hash(shop: tuple[Path, Config]) -> None:
    folder, cfg = shop
    chosen = []
    for limit in (5, 9):
        small = cfg.model_copy(deep=True)
        small.evaluate.max_queries = limit
        build(small, folder / f"data{limit}")
        chosen.append(sets_of(open_dataset(folder / f"data{limit}"), "day8-clicks").query_ids)
    assert [len(c) for c in chosen] == [5, 9]
    assert chosen[1][:5] == chosen[0]  # a larger cap only adds


def test_set_names_must_be_their_own_and_plain(shop: tuple[Path, Config]) -> None:
    folder, cfg = shop
    for name in ("day8-clicks", "a/b"):
        wrong = cfg.model_copy(deep=True)
        wrong.evaluate.sets[0].name = name
        with pytest.raises(ValueError, match="is taken or no file name"):
            build(wrong, folder / "wrong")
