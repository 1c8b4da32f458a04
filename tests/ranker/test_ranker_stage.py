"""The stage ``ranker`` on the toy shop: what it may know, what it leaves, and the reward of it."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidar.answer.count import count_memory
from sidar.answer.key import VARIABLE
from sidar.data import open_dataset
from sidar.data.cleaning.clean import DAY_US
from sidar.data.duck import Duck
from sidar.index import PrefixIndex
from sidar.pipeline.rows.answer_log import read_log, run_key, usable_requests
from sidar.pipeline.rows.ranker_parts import RankerParts, read_window
from sidar.pipeline.rows.ranker_tables import ranker_tables
from sidar.pipeline.runtime import folders
from sidar.ranker.knowledge import before_day
from sidar.ranker.requests import clicks_before
from sidar.ranker.store import Ranker
from sidar.rewards import LoggedRequest, RewardInputs
from sidar.rewards.ranker import RankerReward
from sidar.types import Prompt, Rollouts

STAGES = ("data", "embed", "sid")


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def tables(cfg, data, run, work):
    """The tables of a run whose data folder is ``data``."""
    log = read_log(cfg, data, run_key(cfg), work / "log")
    dataset = open_dataset(data)
    window = read_window(cfg, dataset, work / "window")
    inputs = {**folders(run, STAGES), "data": data}
    parts = RankerParts(cfg, inputs, dataset, log)
    found = ranker_tables(parts, window, work)
    return window, found.train, found.valid


def altered(data, out, change):
    """A copy of a data folder in which ``change`` has gone over the requests, one by one."""
    out.mkdir()
    for path in data.iterdir():
        (out / path.name).symlink_to(path.resolve())
    (out / "requests.parquet").unlink()
    table = pq.read_table(data / "requests.parquet")
    rows = [change(row) for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), out / "requests.parquet")
    return out


def day_of(row):
    return row["ts"] // DAY_US


def test_features_of_a_day_know_the_days_before_it_and_nothing_of_it(ranked, tmp_path):
    cfg, run = ranked
    window, train, valid = tables(cfg, run / "data", run, tmp_path / "a")
    fit_day = window.days[-1].day

    def bought(row, of_day):
        """Every choice of the day becomes an order; who chose stays."""
        if day_of(row) == of_day:
            row["actions"] = [3 if action else 0 for action in row["actions"]]
        return row

    same = altered(run / "data", tmp_path / "same", lambda row: bought(row, fit_day))
    _, now, _ = tables(cfg, same, run, tmp_path / "b")
    np.testing.assert_array_equal(now.features, train.features)
    assert (now.labels != train.labels).any()
    earlier = altered(run / "data", tmp_path / "before", lambda row: bought(row, fit_day - 1))
    _, now, _ = tables(cfg, earlier, run, tmp_path / "c")
    assert not np.array_equal(now.features, train.features, equal_nan=True)
    # and the validation window does know the day that was learnt from
    _, _, later = tables(cfg, same, run, tmp_path / "d")
    assert not np.array_equal(later.features, valid.features, equal_nan=True)


def test_counts_before_a_day_are_those_of_a_log_that_ends_before_it(ranked, tmp_path):
    cfg, run = ranked
    dataset, secret = open_dataset(run / "data"), run_key(cfg)
    with Duck(tmp_path / "duck", cfg.events.memory, 1) as duck:
        requests = usable_requests(duck, run / "data")
        whole = count_memory(duck, requests, ("train",), secret, dataset.catalogue.lineage)
        day = whole.facts.last_day
        short = tmp_path / "short.parquet"
        duck.export(f"SELECT * FROM read_parquet('{requests}') WHERE ts // {DAY_US} < {day}", short)
        cut = count_memory(duck, short, ("train",), secret, dataset.catalogue.lineage)
        clicks = clicks_before(duck, requests, day, len(dataset.catalogue))
    assert before_day(whole, day)._table().select(["key", "row", "day", "weight"]) == (
        cut._table().select(["key", "row", "day", "weight"])
    )
    by_hand = np.zeros(len(dataset.catalogue), int)
    for row in pq.read_table(run / "data" / "requests.parquet").to_pylist():
        if row["split"] == "train" and day_of(row) < day:
            for item, action in zip(row["rows"], row["actions"], strict=True):
                by_hand[item] += action > 0
    np.testing.assert_array_equal(clicks, by_hand)
    assert clicks.sum()


def test_propensities_weigh_the_requests_where_the_log_has_a_random_bucket(ranked, tmp_path):
    cfg, run = ranked
    window, train, valid = tables(cfg, run / "data", run, tmp_path / "a")
    assert window.propensity is not None  # the toy log has the bucket
    assert len(np.unique(train.weight)) > 1
    assert (valid.weight == 1).all()
    plain = cfg.model_copy(update={"ranker": cfg.ranker.model_copy(update={"debias": "none"})})
    _, train, _ = tables(plain, run / "data", run, tmp_path / "b")
    assert (train.weight == 1).all()


def test_a_log_without_a_random_bucket_is_not_debiased_and_refuses_to_be_told_so(ranked, tmp_path):
    cfg, run = ranked
    plain = altered(run / "data", tmp_path / "plain", lambda row: row | {"bucket": "main"})
    window = read_window(cfg, open_dataset(plain), tmp_path / "a")
    assert window.propensity is None
    asked = cfg.model_copy(update={"ranker": cfg.ranker.model_copy(update={"debias": "ips"})})
    with pytest.raises(ValueError, match=r"ranker\.debias is 'ips'"):
        read_window(asked, open_dataset(plain), tmp_path / "b")


def test_a_log_of_one_training_day_says_what_to_do(ranked, tmp_path):
    cfg, run = ranked
    first = min(day_of(r) for r in pq.read_table(run / "data" / "requests.parquet").to_pylist())
    one = altered(
        run / "data",
        tmp_path / "one",
        lambda row: row if day_of(row) == first else row | {"split": "none"},
    )
    with pytest.raises(ValueError, match=r"requests of one day alone.*ranker\.enabled"):
        read_window(cfg, open_dataset(one), tmp_path / "a")


def reward_of(run):
    dataset = open_dataset(run / "data")
    inputs = RewardInputs(dataset, PrefixIndex.load(run / "index"), run)
    return dataset, RankerReward().fit(inputs)


def test_the_reward_is_a_probability_of_every_sid_and_nothing_of_what_is_none(ranked):
    _, run = ranked
    dataset, reward = reward_of(run)
    asked = [
        LoggedRequest(one.prompt, {one.rows[0]: 1}, one.rows[1:], one.request_id, one.ts)
        for one, _ in zip(dataset.requests("train"), range(3), strict=False)
    ]
    sids = np.array([[0, 3, -1], [5, 5, 1], [2, -1, -1]])
    empty = np.zeros((3, 3))
    rollouts = Rollouts(sids, np.zeros((3, 3, 1), np.int32), empty, empty, np.zeros((3, 3, 2)))
    found = reward.score(asked, rollouts)
    assert found.shape == (3, 3)
    assert ((found[sids >= 0] > 0) & (found[sids >= 0] < 1)).all()
    assert (found[sids < 0] == 0).all()
    assert found[1, 0] == found[1, 1]
    members = reward._available(5)
    assert found[1, 0] == pytest.approx(reward.item_scores(asked[1], members).max())


def test_the_reward_knows_training_days_alone_and_leaves_out_what_the_request_added(ranked):
    _, run = ranked
    dataset, reward = reward_of(run)
    last = max(one.ts // DAY_US for one in dataset.requests("train"))
    assert reward._maker.known.memory.facts.last_day == last
    one = next(r for r in dataset.requests("train") if r.prompt.query and max(r.actions) > 0)
    row = one.rows[int(np.argmax(one.actions))]
    rows = np.array([row])
    logged = LoggedRequest(one.prompt, {row: max(one.actions)})
    seen = reward._maker.known.query(one.prompt.query)
    assert row in seen.rows

    def counted(tiers):
        vectors = reward._encode([one.prompt.query])
        own = [{row: 4.0}] if tiers else None
        from sidar.ranker.features import Pairs

        names = [column.name for column in reward._maker.columns]
        found = reward._maker.table([one.prompt], vectors, Pairs.of([rows]), own=own)
        return found[0, names.index("query_count")]

    assert np.isnan(counted(True)) or counted(True) < counted(False)
    asked = []
    kept = reward._maker.table
    reward._maker.table = lambda *args, **more: asked.append(more["own"]) or kept(*args, **more)
    reward.item_scores(logged, rows)
    assert asked == [[{row: {1: 1.0, 2: 2.0, 3: 4.0}[max(one.actions)]}]]


def test_a_run_without_a_ranker_says_how_to_make_one(ranked, tmp_path):
    _, run = ranked
    inputs = RewardInputs(open_dataset(run / "data"), PrefixIndex.load(run / "index"), tmp_path)
    with pytest.raises(ValueError, match=r"set ranker\.enabled to true"):
        RankerReward().fit(inputs)


def test_the_stage_leaves_both_rankers_and_no_pickle(ranked):
    _, run = ranked
    assert not [path for path in (run / "ranker").iterdir() if path.suffix in (".pkl", ".pickle")]
    for use in ("answer", "reward"):
        one = Ranker.load(run / "ranker", use)
        assert set(one.facts["valid_ndcg@10"]) == {"lambdamart", "dcn"}
        assert one.facts["debias"] == "ips"
        assert json.loads((run / "ranker" / f"ranker-{use}.json").read_text())["columns"]
    assert replace(one, levels=2).reads_beams is False  # a reward never does


def test_a_prompt_without_text_or_history_can_be_rewarded(ranked):
    _, run = ranked
    _, reward = reward_of(run)
    found = reward.item_scores(LoggedRequest(Prompt("")), np.arange(4))
    assert np.isfinite(found).all()
