"""Learners: what they learn, that they repeat, and that a saved one is the same."""

import numpy as np
import pytest
import torch

from sidar.config import DcnConfig, RankerConfig
from sidar.ranker.calibration import Calibration, reliability
from sidar.ranker.columns import all_columns
from sidar.ranker.dcn import CrossNet, Dcn
from sidar.ranker.fit import fit_ranker, unseen_copies
from sidar.ranker.lambdamart import LambdaMart
from sidar.ranker.learner import Table, ideal_dcg, ndcg
from sidar.ranker.store import Ranker

OPTIONS = RankerConfig(rounds=40, min_leaf=5, dcn=DcnConfig(steps=120, hidden=8, lr=0.01))
NAMES = [column.name for column in all_columns(0)]


def toy_table(requests, seed):
    """Requests of eight candidates; the chosen one has the highest cosine, the rest is noise."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(requests * 8, len(NAMES))).astype(np.float32)
    features[draw.random(features.shape) < 0.1] = np.nan
    cosine = draw.normal(size=(requests, 8)).astype(np.float32)
    features[:, NAMES.index("cosine")] = cosine.ravel()
    labels = (cosine == cosine.max(1, keepdims=True)).astype(np.int64).ravel()
    starts = np.arange(requests + 1) * 8
    return Table(features, labels, starts, np.ones(requests), np.ones(requests))


TRAIN, VALID = toy_table(80, 1), toy_table(40, 2)


def fitted(name):
    if name == "dcn":
        return Dcn.fit(OPTIONS.dcn, TRAIN, VALID, seed=3)
    return LambdaMart.fit(OPTIONS, NAMES, TRAIN, VALID, seed=3)


def test_ndcg_by_hand():
    # click in second place, order in first of two requests; the third chose nothing
    features = np.zeros((5, 1), np.float32)
    ideal = np.array([ideal_dcg([1]), ideal_dcg([3, 1]), ideal_dcg([])])
    table = Table(features, np.array([0, 1, 3, 1, 0]), np.array([0, 2, 4, 5]), np.ones(3), ideal)
    found = ndcg(table, np.array([2.0, 1.0, 1.0, 2.0, 0.0]))
    one = 1 / np.log2(3)
    np.testing.assert_allclose(found, [one, (1 + 4 * one) / (4 + one), 0])


@pytest.mark.parametrize(("name", "least"), [("lambdamart", 0.85), ("dcn", 0.7)])
def test_a_learner_finds_the_signal_repeats_and_is_saved(name, least, tmp_path):
    model = fitted(name)
    scores = model.scores(VALID.features)
    assert ndcg(VALID, scores).mean() > least  # chance is .49
    np.testing.assert_array_equal(scores, fitted(name).scores(VALID.features))
    model.save(tmp_path / "model")
    np.testing.assert_allclose(type(model).load(tmp_path / "model").scores(VALID.features), scores)
    (tmp_path / "model").write_text("nothing of the kind")
    with pytest.raises(ValueError, match="damaged"):
        type(model).load(tmp_path / "model")


def test_the_cross_layer_is_equation_1():
    net = CrossNet(1, 1, 2)
    with torch.no_grad():
        net.cross[0].weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        net.cross[0].bias.copy_(torch.tensor([0.5, -1.0]))
        net.out.weight.copy_(torch.tensor([[1.0, 10.0, 0.0, 0.0]]))
        net.out.bias.zero_()
    # x0 = (4, 1): the value and "known"; x1 = (4 (8 + .5) + 4, 1 (3 − 1) + 1) = (38, 3)
    assert net(torch.tensor([[4.0]])).item() == pytest.approx(38 + 30)
    # unknown: x0 = (0, 0), so x1 = (0, 0)
    assert net(torch.tensor([[float("nan")]])).item() == pytest.approx(0)


def test_auto_keeps_the_better_learner_and_says_what_both_reached(tmp_path):
    one = fit_ranker(OPTIONS, "answer", 0, TRAIN, VALID, seed=3)
    worth = one.facts["valid_ndcg@10"]
    assert set(worth) == {"lambdamart", "dcn"}
    assert worth[one.learner.name] == max(worth.values())
    one.save(tmp_path)
    again = Ranker.load(tmp_path, "answer")
    np.testing.assert_allclose(again.scores(VALID.features), one.scores(VALID.features))
    path = tmp_path / "ranker-answer.json"
    path.write_text(path.read_text().replace('"cosine"', '"sine"'))
    with pytest.raises(ValueError, match="other features"):
        Ranker.load(tmp_path, "answer")
    with pytest.raises(ValueError, match=r"ranker\.enabled"):
        Ranker.load(tmp_path, "reward")


def test_weights_of_requests_move_the_fit():
    heavy = np.where(np.arange(80) < 40, 10.0, 0.1)
    other = Table(TRAIN.features, TRAIN.labels, TRAIN.starts, heavy, TRAIN.ideal)
    for name in ("lambdamart", "dcn"):
        if name == "dcn":
            moved = Dcn.fit(OPTIONS.dcn, other, VALID, seed=3)
        else:
            moved = LambdaMart.fit(OPTIONS, NAMES, other, VALID, seed=3)
        assert not np.allclose(moved.scores(VALID.features), fitted(name).scores(VALID.features))


def test_training_sees_each_request_once_without_the_counts_of_its_query():
    twice = unseen_copies(TRAIN, 0)
    assert len(twice) == 160
    assert twice.starts[-1] == 1280
    at = NAMES.index("count")
    assert np.isnan(twice.features[640:, at]).all()
    np.testing.assert_array_equal(twice.features[:640], TRAIN.features)
    at = NAMES.index("cosine")
    np.testing.assert_array_equal(twice.features[640:, at], TRAIN.features[:, at])


def test_calibration_finds_the_curve_and_never_turns_the_order_round():
    draw = np.random.default_rng(0)
    scores = draw.normal(size=4000)
    truth = Calibration(1.5, -1.0)
    found = Calibration.fit(scores, draw.random(4000) < truth(scores))
    assert found.slope == pytest.approx(1.5, abs=0.2)
    assert found.offset == pytest.approx(-1.0, abs=0.15)
    assert Calibration.fit(scores, draw.random(4000) > truth(scores)).slope > 0
    assert Calibration(1.0, 0.0)(np.array([0.0]))[0] == 0.5


def test_reliability_by_hand():
    said, was = np.array([0.1, 0.3, 0.8, 0.6]), np.array([False, True, True, True])
    found = reliability(said, was, bins=2)
    assert [row["chosen"] for row in found["bins"]] == [0.5, 1.0]
    assert [row["predicted"] for row in found["bins"]] == pytest.approx([0.2, 0.7])
    assert found["ece"] == pytest.approx(0.3)
