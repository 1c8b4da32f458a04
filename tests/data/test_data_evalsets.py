"""Evaluation sets from files and from the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference_data as slow
import yaml
from toy_leaks import words, write_typed_sets

from sidar.config import Config, DataConfig, EvalSetConfig, HeldOutConfig
from sidar.data import build, open_dataset, toy
from sidar.data.judgments.evalsets import StoredSet, build_sets, held_out_advice
from sidar.data.judgments.judged import read_file_set

ITEMS = toy.catalogue()


def read(
    folder: Path, queries: str, qrels: str, *, limit: int | None = None, origin: str = "real"
) -> StoredSet:
    (folder / "q.tsv").write_text(queries, encoding="utf-8")
    (folder / "r.tsv").write_text(qrels)
    config = EvalSetConfig(
        name="s", queries=str(folder / "q.tsv"), qrels=str(folder / "r.tsv"), origin=origin
    )
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
    assert stored.dropped == {
        "judgments_on_unknown_items": 1,
        "judgments_of_unknown_queries": 1,
        "queries_without_judgments": 2,
        "history_items_unknown": 1,
    }
    # none of them may be trained on
    assert stored.held_out == ['pan\'s "best"', "nothing judged", "only strangers"]


def test_trec_parquet_and_jsonl_say_the_same(tmp_path: Path) -> None:
    want = read(
        tmp_path,
        "query_id\tquery\nq1\ta pan\n",
        "query_id\titem_id\tgrade\nq1\tT000\t1\nq1\tT001\t0\n",
    ).evalset
    (tmp_path / "r.trec").write_text("q1 0 T000 1\nq1 0 T001 0\n")
    pq.write_table(
        pa.table({"query_id": ["q1"], "query": ["a pan"], "history": [[]]}), tmp_path / "q.parquet"
    )
    (tmp_path / "q.jsonl").write_text('{"query_id": "q1", "query": "a pan"}\n')
    (tmp_path / "q.csv").write_text("query_id,query\nq1,a pan\n")
    for name in ("q.parquet", "q.jsonl", "q.csv"):
        config = EvalSetConfig(
            name="s", queries=str(tmp_path / name), qrels=str(tmp_path / "r.trec")
        )
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
        (
            "query_id\tquery\nq\ta\nq\tb\n",
            "query_id\titem_id\tgrade\nq\tT000\t1\n",
            "'q' occurs twice",
        ),
        ("n\tquery\nq\ta\n", "query_id\titem_id\tgrade\nq\tT000\t1\n", "no column 'query_id'"),
        (
            "query_id\tquery\nq\ta\n",
            "query_id\titem_id\tgrade\nq\tT000\thigh\n",
            "grade 'high' of query 'q'",
        ),
        (
            "query_id\tquery\nq\ta\n",
            "query_id\titem_id\tgrade\nq\tT000\n",
            "r.tsv, record 2 cannot be read",
        ),
        ("query_id\tquery\nq\ta\n", "query_id\titem_id\tgrade\nq\tgone\t1\n", "no query of"),
        ("", "query_id\titem_id\tgrade\nq\tgone\t1\n", "q.tsv is empty"),
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
    cfg = Config.model_validate(
        {"threads": 1, "evaluate": {"targets": ["click", "order", "random_click"]}}
    )
    cfg.catalogue.path, cfg.events.path, cfg.users.path = (
        str(paths[n]) for n in ("catalogue", "events", "users")
    )
    cfg.evaluate.sets = [
        EvalSetConfig(
            name=f"toy-{r}",
            queries=str(paths[f"{r}.queries"]),
            qrels=str(paths[f"{r}.qrels"]),
            role=r,
        )
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
    for name, least, random_only in (
        ("clicks", 1, False),
        ("orders", 3, False),
        ("random-clicks", 1, True),
    ):
        made = sets[f"day8-{name}"]
        want = {
            i: {
                ids[row]: 1.0
                for row, action in zip(r.rows, r.actions, strict=True)
                if action >= least
            }
            for i, r in requests.items()
            if (r.bucket == "random" or not random_only) and max(r.actions) >= least
        }
        assert made.qrels == want
        assert made.origin == "log"
        assert all(
            p == requests[i].prompt for i, p in zip(made.query_ids, made.prompts, strict=True)
        )
    judged = sets["toy-test"]
    assert judged.qrels == toy.judged("test").qrels
    assert judged.prompts == toy.judged("test").prompts


def test_slices_follow_training_days(shop: tuple[Path, Config]) -> None:
    folder, cfg = shop
    build(cfg, folder / "data")
    data = open_dataset(folder / "data")
    labels = data.priors().popularity()
    for evalset in data.eval_sets():
        for n, i in enumerate(evalset.query_ids):
            best = max(evalset.qrels[i].values())
            rows = data.catalogue.rows(
                item for item, grade in evalset.qrels[i].items() if grade == best
            )
            clicks = data.priors().clicks[rows]
            assert evalset.slices["popularity"][n] in set(labels[rows[clicks == clicks.max()]])
    assert set(sets_of(data, "toy-test").slices["query"]) == {"unseen"}
    assert "seen" in set(sets_of(data, "day8-clicks").slices["query"])


@pytest.mark.parametrize(
    ("options", "test_from", "valid_from"),
    [
        ({}, 8, 7),
        # days 5 and 6 belong to no split and still come before the test
        ({"valid_day": 4, "test_day": 7}, 7, 4),
        ({"test_days": 2, "valid_days": 0}, 7, None),
        ({"unit": "leave_one_out"}, None, None),
    ],
)
def test_seen_is_a_positive_for_the_query_before_the_window(
    tmp_path: Path, options: dict, test_from: int | None, valid_from: int | None
) -> None:
    paths = toy.write_inputs(tmp_path)
    events = pq.read_table(paths["events"]).to_pylist()
    typed = sorted({e["query"] for e in events})
    # other spellings, requests without a text, and requests without a click
    for number, event in enumerate(events):
        kind = int(event["request_id"][-3:]) % 5
        event["query"] = {0: event["query"].upper(), 1: f" {event['query']}\u00ad!", 2: ""}.get(
            kind, event["query"]
        )
        if number % 3 and event["action"] != "impression":
            event["action"] = "look"
    pq.write_table(
        pa.Table.from_pylist(events, schema=pq.read_schema(paths["events"])), paths["events"]
    )
    (tmp_path / "q.tsv").write_text(
        "query_id\tquery\n" + "".join(f"q{n}\t{q}?\n" for n, q in enumerate(typed))
    )
    (tmp_path / "r.tsv").write_text(
        "query_id\titem_id\tgrade\n" + "".join(f"q{n}\tT000\t1\n" for n in range(len(typed)))
    )
    files = {"queries": str(tmp_path / "q.tsv"), "qrels": str(tmp_path / "r.tsv")}
    cfg = Config.model_validate(
        {"threads": 1, "split": options, "evaluate": {"sets": [{"name": "typed", **files}]}}
    )
    cfg.catalogue.path, cfg.events.path = str(paths["catalogue"]), str(paths["events"])
    cfg.data.held_out = (
        [HeldOutConfig(queries=str(tmp_path / "q.tsv"), match="exact")]
        if "test_days" in options
        else []
    )
    cfg.evaluate.max_queries = None
    build(cfg, tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    requests = pq.read_table(tmp_path / "data" / "requests.parquet").to_pylist()

    def before(role: str) -> Callable[[dict], bool]:
        if options.get("unit") == "leave_one_out":
            return lambda r: r["split"] in (("train",) if role == "valid" else ("train", "valid"))
        day = valid_from if role == "valid" else test_from
        return lambda r: r["day"] < day

    labels = set()
    for role in ("valid", "test"):
        for evalset in data.eval_sets(role):
            want = [slow.seen_or_unseen(p.query, requests, before(role)) for p in evalset.prompts]
            assert evalset.slices["query"].tolist() == want
            labels |= set(want)
    assert labels == {"seen", "unseen", "no query"}


def test_sets_follow_the_config_and_not_the_folder(shop: tuple[Path, Config]) -> None:
    folder, cfg = shop
    build(cfg, folder / "data")
    stored, made = open_dataset(folder / "data").eval_sets(), build_sets(cfg, folder / "data")
    assert [each.evalset.name for each in made] == [each.name for each in stored]
    for each, other in zip(made, stored, strict=True):
        assert (each.evalset.qrels, each.evalset.prompts) == (other.qrels, other.prompts)
        assert {k: v.tolist() for k, v in each.evalset.slices.items()} == {
            k: v.tolist() for k, v in other.slices.items()
        }
    changed = cfg.model_copy(deep=True)
    changed.evaluate.sets, changed.evaluate.targets, changed.evaluate.max_queries = [], ["order"], 3
    assert [
        (each.evalset.name, len(each.evalset)) for each in build_sets(changed, folder / "data")
    ] == [
        ("day7-orders", 3),
        ("day8-orders", 3),
    ]


def test_a_set_that_training_has_seen_is_told_with_the_line_that_holds_it_out(
    tmp_path: Path,
) -> None:
    paths = toy.write_inputs(tmp_path)
    sets = [EvalSetConfig(**each) for each in write_typed_sets(tmp_path)]
    cfg = Config.model_validate({"threads": 1, "data": {"held_out": []}})
    cfg.catalogue.path, cfg.events.path = str(paths["catalogue"]), str(paths["events"])
    build(cfg, tmp_path / "data")
    cfg.evaluate.sets = sets
    made = build_sets(cfg, tmp_path / "data")
    trained = [words(r.prompt.query) for r in open_dataset(tmp_path / "data").requests("train")]
    for each in made[:2]:
        assert each.trained_on == sum(words(p.query) in trained for p in each.evalset.prompts) > 8
    # what shoppers ask again belongs to the day's set
    assert not any(each.trained_on for each in made[2:])
    advice = held_out_advice(cfg, made)
    real, simulated = (each.queries for each in sets)
    assert f"typed_real: {made[0].trained_on} of {len(made[0].evalset)}" in advice
    line = (
        f"data: {{held_out: [{{queries: {real}, match: near}}, {{queries: {simulated}, match: "
        f"exact}}]}}"
    )
    assert line in advice
    cfg.data = DataConfig.model_validate(yaml.safe_load(line)["data"])
    report = build(cfg, tmp_path / "data")
    assert report["held_out"] == [each.model_dump() for each in cfg.data.held_out or []]
    assert held_out_advice(cfg, build_sets(cfg, tmp_path / "data")) == ""


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
