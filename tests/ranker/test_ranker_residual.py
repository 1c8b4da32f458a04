"""What a learner adds to the smoothed answer: the offset it starts from, how much of it is taken,
and that nothing of it leaves the answer as it is.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sidar import Retriever
from sidar.answer.facts import read_facts
from sidar.answer.key import VARIABLE
from sidar.answer.smoothed import Posterior, SmoothedMemory
from sidar.config import DcnConfig, RankerConfig
from sidar.data import open_dataset
from sidar.pipeline.rows import ranker_tables as built
from sidar.ranker.answer import RankedAnswer, moved_share
from sidar.ranker.columns import all_columns
from sidar.ranker.dcn import CrossNet, DcnTraining
from sidar.ranker.features import Pairs
from sidar.ranker.fit import fit_ranker, prior_of, unseen_copies
from sidar.ranker.lambdamart import LambdaMart
from sidar.ranker.learner import Prior, Table, ndcg
from sidar.ranker.residual import SHRINKAGES, Shrinkage
from sidar.ranker.shrinking import Group, choose, shrink
from sidar.ranker.store import Ranker
from sidar.types import Prompt

NAMES = [column.name for column in all_columns(0)]
OPTIONS = RankerConfig(rounds=20, min_leaf=5, dcn=DcnConfig(steps=20, hidden=8))


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def of_answer(params, counts=(2.0,)):
    """The smoothed answer of one query over three items, of which two are pooled."""
    known = (np.arange(len(counts)), np.array(counts))
    rows, logs = np.array([[0, 2, -1]]), np.log(np.array([[0.25, 0.75, 1.0]]))
    prior = np.array([0.2, 0.5, 0.3])
    return Posterior(params, rows, logs, [known], prior, np.array([1, 2, 0]))


def toy(requests, seed, *, right):
    """Requests of four candidates, of which the one with the highest cosine is chosen; the prior
    knows it (``right``) or says nothing.
    """
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(requests * 4, len(NAMES))).astype(np.float32)
    cosine = features[:, NAMES.index("cosine")].reshape(requests, 4)
    chosen = (cosine == cosine.max(1, keepdims=True)).ravel()
    logs = np.where(chosen, 8.0, 0.0) if right else np.zeros(len(chosen))
    seen = np.arange(requests) % 2 == 0
    queries = np.array([f"q{r}" for r in range(requests)])
    ones = np.ones(requests)
    prior = Prior(logs, np.zeros(len(chosen)), seen, queries)
    starts = np.arange(requests + 1) * 4
    return Table(features, chosen.astype(np.int64), starts, ones, ones, prior)


def test_log_p_of_given_items_by_hand():
    from sidar.answer.smoothed import AnswerParams

    posterior = of_answer(AnswerParams(2.0, 7.0, 0.1, 0.02, {}, {}))
    # P0 = .9 pool + .1 prior; P = (c + 2 P0) / (2 + 2)
    p0 = np.array([0.9 * 0.25 + 0.02, 0.05, 0.9 * 0.75 + 0.03])
    rows = np.array([2, 0, 1])
    found = posterior.parts(0, rows)
    np.testing.assert_allclose(found[0], ((np.array([2.0, 0, 0]) + 2 * p0) / 4)[rows])
    np.testing.assert_allclose(found[1], [0, 2, 0])
    np.testing.assert_allclose(posterior.parts(0, rows, counted=False)[0], p0[rows])
    prior = prior_of(posterior, [Prompt(" Red  Shoe")], Pairs.of([rows]))
    np.testing.assert_allclose(prior.logs, np.log(found[0]))
    np.testing.assert_allclose(prior.hidden().logs, np.log(p0[rows]))
    assert prior.seen.tolist() == [True]
    assert prior.hidden().seen.tolist() == [False]
    assert prior.queries.tolist() == ["red shoe"]


def test_what_the_candidates_have_together_stays_theirs_by_hand():
    # P e^{λ g} = .5, .25 · 2, .05: shared out over .8
    found = moved_share(np.array([0.5, 0.25, 0.05]), 0.5 * np.log([1.0, 4.0, 1.0]))
    np.testing.assert_allclose(found, np.array([0.5, 0.5, 0.05]) * 0.8 / 1.05)


def test_the_highest_worst_lower_bound_is_taken_and_zero_where_none_is_above_it():
    queries = np.array(["a", "b", "c", "d"])

    def group(name, *leads):
        """Values whose leads under the second and the last λ are given, others far below."""
        values = np.full((len(SHRINKAGES), 4), -1.0)
        values[0] = 0.0
        values[1], values[-1] = leads
        return Group(name, values, queries)

    sure, large = np.array([0.1, 0.12, 0.1, 0.12]), np.array([0.9, -0.3, 0.5, -0.3])
    one = group("seen", sure, large)
    mean, low = one.leads()
    assert mean[1] == pytest.approx(0.11)
    # standard error .0115470 / 2 of four queries
    assert low[1] == pytest.approx(0.11 - 1.96 * np.std(sure, ddof=1) / 2)
    assert mean[-1] == pytest.approx(0.2)
    assert low[-1] < 0 == low[0]
    # what pays for one group of the new queries and not for the other is not taken
    found = choose([one], [one, group("as unseen", -sure, sure)])
    assert (found.seen, found.unseen) == (SHRINKAGES[1], 0.0)
    assert found.why["as unseen"]["lead"][-1] == pytest.approx(0.11)
    # two requests of one query count as one, and one query says nothing
    alone = Group("seen", one.values, np.array(["a"] * 4))
    assert choose([alone], [alone]).seen == 0.0
    assert found.of(np.array([True, False])).tolist() == [SHRINKAGES[1], 0.0]


def test_trees_start_from_log_p_and_learn_what_it_leaves():
    options = RankerConfig(rounds=5, min_leaf=5)

    def spread(right):
        train = toy(60, 1, right=right)
        return LambdaMart.fit(options, NAMES, train, train, seed=0).scores(train.features).std()

    # a prior that has the order right by eight nats leaves gradients of e^-8
    assert spread(right=True) < 0.01 * spread(right=False)


def test_the_click_model_adds_log_p_to_its_logits_by_hand():
    net = CrossNet(len(NAMES), 1, 2)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    table = toy(1, 1, right=True)
    training = DcnTraining(net, DcnConfig(steps=1), table, table, 0)
    # logits are the offset: 8 for the chosen one, 0 for three others
    expected = (np.log1p(np.exp(-8.0)) + 3 * np.log(2.0)) / 4
    assert training.loss(np.array([0])).value.item() == pytest.approx(expected, rel=1e-5)
    assert training.validate()["ndcg@10"] == pytest.approx(ndcg(table, table.prior.logs)[0])


def test_copies_of_new_queries_start_from_what_the_answer_says_without_counts():
    table = toy(3, 1, right=True)
    twice = unseen_copies(table, 0).prior
    np.testing.assert_array_equal(twice.logs, np.concatenate([table.prior.logs, np.zeros(12)]))
    assert twice.seen.tolist() == [True, False, True, False, False, False]


def test_what_there_is_to_learn_is_taken_and_noise_is_not(tmp_path):
    train, valid = toy(80, 1, right=False), toy(40, 2, right=False)
    one = fit_ranker(OPTIONS, "answer", 0, train, valid, seed=3)
    assert one.shrinkage.seen > 0 < one.shrinkage.unseen
    one.save(tmp_path)
    assert Ranker.load(tmp_path, "answer").shrinkage == one.shrinkage
    noise = np.random.default_rng(0).normal(size=160)
    assert shrink(toy(40, 2, right=True), noise, noise).seen == 0.0
    # a reward says what an item is worth by itself, whatever the answer says of it
    plain = [replace(table, prior=None) for table in (train, valid)]
    rewards = [fit_ranker(OPTIONS, "reward", 0, *two, seed=3) for two in ((train, valid), plain)]
    assert rewards[0].shrinkage is None
    found = [each.scores(valid.features[:, : len(each.columns)]) for each in rewards]
    np.testing.assert_array_equal(*found)


def test_the_offset_of_a_training_day_knows_the_days_before_it_alone(ranked, tmp_path, monkeypatch):
    from test_ranker_stage import altered, day_of, tables

    cfg, run = ranked
    kept = []
    fitted = built._fitted
    monkeypatch.setattr(
        built, "_fitted", lambda *given: kept[0] if kept else kept.append(fitted(*given)) or kept[0]
    )
    window, train, valid = tables(cfg, run / "data", run, tmp_path / "a")
    last = window.days[-1].day

    def bought(row, of_day):
        if day_of(row) == of_day:
            row["actions"] = [3 if action else 0 for action in row["actions"]]
        return row

    same = altered(run / "data", tmp_path / "same", lambda row: bought(row, last))
    _, now, later = tables(cfg, same, run, tmp_path / "b")
    np.testing.assert_array_equal(now.prior.logs, train.prior.logs)
    assert not np.array_equal(later.prior.logs, valid.prior.logs)
    before = altered(run / "data", tmp_path / "before", lambda row: bought(row, last - 1))
    _, now, _ = tables(cfg, before, run, tmp_path / "c")
    assert not np.array_equal(now.prior.logs, train.prior.logs)
    assert train.prior.seen.any()
    assert len(train.prior.seen) == len(train)


def test_the_answer_chooses_how_much_is_taken_for_the_channels_that_are_served(answered):
    _, run, report = answered
    ranker = Ranker.load(run / "answer", "answer")
    facts = read_facts(run / "answer")["ranker"]
    assert facts["shrinkage"] == ranker.shrinkage.to_json()
    assert "is added to the smoothed answer" in report["summary"]
    assert set(ranker.shrinkage.why) == {"seen", "unseen", "as unseen"}


def test_nothing_taken_is_the_smoothed_answer_and_something_moves_it(answered):
    _, run, _ = answered
    served = Retriever.load(run / "bundle", precision="fp32").fused
    requests = open_dataset(run / "data").requests("train")
    asked = next(one.prompt for one in requests if one.prompt.query)
    prompts = [asked, Prompt("nobody asked this")]
    vectors = np.zeros((2, served.ranked.maker._vectors.shape[1]), np.float32)
    found = {
        name: served.lexical.search([one.query for one in prompts], 30)
        for name in served.model.params.channels
    }

    def answer(seen, unseen):
        ranker = served.ranked.ranker.with_shrinkage(Shrinkage(seen, unseen, {}))
        ranked = RankedAnswer(ranker, served.ranked.maker, served.model)
        return ranked.rank(prompts, vectors, found, 12)

    smoothed = served.model.rank([one.query for one in prompts], found, 12)
    assert isinstance(served.ranked.smoothed, SmoothedMemory)
    nothing = answer(0.0, 0.0)
    for name in ("probability", "counts", "pool", "seen"):
        np.testing.assert_array_equal(getattr(nothing, name), getattr(smoothed, name))
    np.testing.assert_array_equal(nothing.hits.rows, smoothed.hits.rows)
    # so near to nothing that it breaks no tie, by the other way
    almost = answer(1e-300, 1e-300)
    np.testing.assert_array_equal(almost.hits.rows, smoothed.hits.rows)
    np.testing.assert_allclose(almost.probability, smoothed.probability)
    much = answer(0.0, 50.0)
    np.testing.assert_array_equal(much.hits.rows[0], smoothed.hits.rows[0])
    assert not np.array_equal(much.hits.rows[1], smoothed.hits.rows[1])
    assert np.all(np.diff(much.probability[1]) <= 0)
