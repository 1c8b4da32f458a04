"""The whole simulator on the embedded sample: files, truth, marginals, determinism."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from reference_simulate import sample_facts, small_config, small_log

from sidar import simulate
from sidar.data import sample, toy
from sidar.simulate.grounded import SPLITS
from sidar.simulate.schedule import DAY_US, first_moment
from sidar.types import ACTIONS, CATALOGUE_SCHEMA

CONFIG = small_config()
BEGIN = first_moment(CONFIG)


@pytest.fixture(scope="module")
def events():
    return pq.read_table(small_log() / "events.parquet")


@pytest.fixture(scope="module")
def truth():
    return pq.read_table(small_log() / "truth.parquet")


@pytest.fixture(scope="module")
def catalogue():
    return pq.read_table(small_log() / "catalogue.parquet")


def only(events, action):
    return events.filter(pc.equal(events["action"], action))


def read_tsv(name):
    return [line.split("\t") for line in (small_log() / name).read_text().splitlines()[1:]]


def rows(table, *names):
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def test_events_have_the_contract_columns_in_order_of_time(events):
    names = "ts user_id session_id request_id query item_id position action value dwell_s bucket"
    assert events.column_names == names.split()
    assert (np.diff(events["ts"].to_numpy()) >= 0).all()
    assert set(events["action"].to_pylist()) == set(ACTIONS)
    assert pc.min(events["position"]).as_py() == 1
    assert only(events, "order")["value"].null_count == 0
    assert only(events, "click")["dwell_s"].null_count == 0
    assert only(events, "impression")["value"].null_count == only(events, "impression").num_rows
    assert set(events["user_id"].to_pylist()) <= set(
        pq.read_table(small_log() / "users.parquet")["user_id"].to_pylist()
    )


def test_eight_days_of_the_asked_size_and_ten_percent_at_random_on_each(events):
    shown = only(events, "impression").filter(pc.equal(only(events, "impression")["position"], 1))
    assert shown.num_rows == CONFIG.requests
    day = (shown["ts"].to_numpy() - BEGIN) // DAY_US + 1
    assert sorted(set(day.tolist())) == list(range(1, 9))
    random = np.asarray(shown["bucket"].to_pylist()) == "random"
    for which in range(1, 9):
        of_day = day == which
        assert abs(of_day.sum() - CONFIG.requests / 8) < 40
        assert random[of_day].sum() == round(0.1 * of_day.sum())


def test_an_action_follows_its_impression_on_the_same_day(events):
    first = {}
    for ts, request, item, action in rows(events, "ts", "request_id", "item_id", "action"):
        if action == "impression":
            first[request, item] = ts
        else:
            assert first[request, item] < ts
            assert (ts - BEGIN) // DAY_US == (first[request, item] - BEGIN) // DAY_US


def test_logged_queries_are_train_queries_and_held_out_ones_never_appear(events):
    asked = set(events["query"].to_pylist())
    texts = {
        split: {text for _, text in read_tsv(f"grounded_{split}.queries.tsv")} for split in SPLITS
    }
    assert asked <= texts["train"]
    assert not asked & (texts["valid"] | texts["test"])


def test_new_items_are_launched_from_day_five_and_never_shown_before(events, catalogue):
    assert catalogue.schema.equals(CATALOGUE_SCHEMA)
    created = dict(
        zip(
            catalogue["item_id"].to_pylist(),
            pc.cast(catalogue["created"], "int64").to_pylist(),
            strict=True,
        )
    )
    launched = {item: ts for item, ts in created.items() if ts >= BEGIN}
    assert len(launched) == round(CONFIG.launch_share * len(created))
    assert min(launched.values()) >= BEGIN + 4 * DAY_US
    assert max(launched.values()) < BEGIN + 8 * DAY_US
    seen = [
        (t, i)
        for t, i in zip(events["ts"].to_pylist(), events["item_id"].to_pylist(), strict=True)
        if i in launched
    ]
    assert len(seen) > 50
    assert all(ts >= launched[item] for ts, item in seen)


def test_relevance_in_the_log_is_the_grade_of_the_query(events, truth):
    """The rule that made the qrels (compared with its slow twin elsewhere) also made the log's
    truth.
    """
    names = dict(read_tsv("grounded_train.queries.tsv"))
    grades = {
        (names[name], item): float(grade)
        for name, item, grade in read_tsv("grounded_train.qrels.tsv")
    }
    query = dict(rows(events, "request_id", "query"))
    for request, item, relevance in rows(truth, "request_id", "item_id", "relevance"):
        assert relevance == grades.get((query[request], item), 0.0)


def test_truth_names_every_impression_and_its_pseudo_negatives(events, truth):
    place = ("request_id", "item_id", "position")
    assert sorted(rows(only(events, "impression"), *place)) == sorted(rows(truth, *place))
    relevance, clicked = truth["relevance"].to_numpy(), truth["clicked"].to_numpy()
    assert (truth["pseudo_negative"].to_numpy() == ((relevance == 1) & ~clicked)).all()
    assert clicked.sum() == only(events, "click").num_rows
    assert (truth["examined"].to_numpy() >= clicked).all()


def test_taste_decides_among_relevant_items(truth):
    exact = truth.filter(pc.equal(truth["relevance"], 1.0))
    taste, clicked = exact["taste"].to_numpy(), exact["clicked"].to_numpy()
    assert taste[clicked].mean() > taste[~clicked].mean() + 0.2


def test_history_tells_of_taste(events, truth):
    """Users return to brands: more often than when each click's history is drawn from everybody's
    clicks.
    """
    user = dict(rows(events, "request_id", "user_id"))
    brand = dict(zip(sample.load_catalogue().item_ids, sample_facts().brand, strict=True))
    by_user: dict = {}
    for request, item in rows(truth.filter(truth["clicked"]), "request_id", "item_id"):
        by_user.setdefault(user[request], []).append(brand[item])
    everyone = [name for names in by_user.values() for name in names]
    own, others = [], []
    for names in by_user.values():
        for n in range(1, len(names)):
            own.append(names[n] in names[:n])
            others.append(names[n] in np.random.default_rng(n).choice(everyone, n))
    assert np.mean(own) > 2 * np.mean(others)


def test_utility_covers_the_last_two_days_and_agrees_with_the_shown_items(truth):
    utility = pq.read_table(small_log() / "utility.parquet")
    value = {
        (request, item): u for request, item, u in rows(utility, "request_id", "item_id", "utility")
    }
    late = {request for request, _ in value}
    shown = {
        (request, item): u
        for request, item, relevance, u in rows(
            truth, "request_id", "item_id", "relevance", "utility"
        )
        if request in late and relevance >= 0.1
    }
    assert len(shown) > 500
    assert all(value[key] == u for key, u in shown.items())
    assert len(value) > len(shown)  # items that were not shown have a utility too


def test_marginals_are_plausible_and_described_as_simulated(capsys):
    found = simulate.describe(small_log())
    ctr = list(found["ctr_by_position"].values())
    assert ctr[0] > 1.3 * ctr[2] > 1.3 * 1.3 * ctr[4]
    assert 0.1 < ctr[0] < 0.35
    assert 0.3 < found["requests_with_click"] < 0.7
    assert 0.01 < found["orders_per_click"] < 0.15
    assert found["orders_per_click"] < found["carts_per_click"] < 0.4
    assert 0.1 < found["pseudo_negative_share"] < 0.6
    assert 0.4 < found["query_zipf_exponent"] < 1.3
    assert found["cold"]["share_of_items"] == pytest.approx(0.06, abs=1e-3)
    printed = capsys.readouterr().out
    assert printed.startswith("SIMULATED")
    assert "pseudo_negative_share" in printed


def test_everything_is_labelled_simulated():
    folder = small_log()
    report = json.loads((folder / "simulator.json").read_text())
    assert report["simulated"] is True
    assert report["config_hash"] == CONFIG.hash
    assert report["config"] == CONFIG.model_dump()
    assert len(list(folder.glob("*.parquet"))) == 5
    for path in folder.glob("*.parquet"):
        assert pq.read_schema(path).metadata[b"sidar.simulated"] == b"true"
        assert pq.read_schema(path).metadata[b"sidar.simulator_config"].decode() == CONFIG.hash


def test_same_config_same_bytes_whatever_the_hash_seed_and_no_torch(tmp_path):
    code = (
        "import sys; from sidar import simulate; from sidar.data import sample;"
        "c = simulate.load_config('demo', users=150, requests=1600, queries={'count': 300});"
        f"simulate.run(sample.load_catalogue(), c, r'{tmp_path}');"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    for path in sorted(small_log().iterdir()):
        assert (
            sha256(path.read_bytes()).digest()
            == sha256((tmp_path / path.name).read_bytes()).digest()
        ), path.name


def test_another_catalogue_of_64_items_works_and_keeps_its_dates(tmp_path):
    catalogue = toy.catalogue()
    config = small_config(users=20, requests=100, queries={"count": 40}, start="2027-01-01")
    report = simulate.run(catalogue, config, tmp_path, avoid=[])
    assert report["marginals"]["requests"] == 100
    written = pq.read_table(tmp_path / "catalogue.parquet")["created"].to_pylist()
    launched = sum(moment >= datetime(2027, 1, 5, tzinfo=UTC) for moment in written)
    assert launched == round(config.launch_share * 64)
    assert (
        sum(a == b for a, b in zip(written, catalogue.column("created"), strict=True))
        == 64 - launched
    )


def test_too_small_a_catalogue_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lower the count"):
        simulate.run(toy.catalogue(), small_config(queries={"count": 5000}), tmp_path)


def test_a_folder_without_a_log_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"sidar\.simulate\.run"):
        simulate.describe(tmp_path)
