"""The data order, the learning rate and the pseudo-queries: functions of (seed, step) and nothing
else.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.config import OptimConfig
from sidar.fitting.schedule import lr_factor, step_seed
from sidar.train.order import WINDOW, Order, Pools
from sidar.train.pseudo import ItemWords, item_words, pseudo_query


def lengths_of(draws):
    return [(i * 7919 + len(name)) % 50 for name, i, _ in draws]


def pools(order):
    return Pools(order, lambda draws: draws, lambda d: lengths_of([d])[0])


def test_every_step_can_be_asked_for_on_its_own():
    sizes, shares = {"a": 100, "b": 7}, {"a": 0.7, "b": 0.3}
    straight = pools(Order(sizes, shares, 8, seed=3))
    batches = [straight.batch(s) for s in range(3 * WINDOW)]
    for step in (40, 5, 17, 0):
        assert pools(Order(sizes, shares, 8, seed=3)).batch(step) == batches[step]
    assert pools(Order(sizes, shares, 8, seed=4)).batch(0) != batches[0]


def test_each_epoch_draws_every_example_once_and_epochs_differ():
    order = Order({"a": 32}, {"a": 1.0}, batch_size=4, seed=0)
    draws = [d for number in range(2) for d in order.pool(number)]  # 128 draws = 4 epochs
    for epoch in range(4):
        assert sorted(i for _, i, e in draws if e == epoch) == list(range(32))
    first, second = ([i for _, i, e in draws if e == epoch] for epoch in (0, 1))
    assert first != second


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 40), min_size=3, max_size=3),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.integers(1, 9),
)
@settings(deadline=None)
def test_pools_are_full_whatever_the_shares(sizes, shares, batch):
    wanted = dict(zip("abc", shares, strict=True))
    if not any(sizes[n] and wanted[n] > 0 for n in "abc"):
        with pytest.raises(ValueError, match="nothing to train on"):
            Order(sizes, wanted, batch, seed=0)
        return
    order = Order(sizes, wanted, batch, seed=0)
    pool = order.pool(5)
    assert len(pool) == WINDOW * batch
    live = sum(wanted[n] for n in "abc" if sizes[n])
    for name in "abc":
        want = WINDOW * batch * wanted[name] / live if sizes[name] else 0
        assert abs(sum(n == name for n, _, _ in pool) - want) <= 1
    places = np.concatenate(order.split(5, lengths_of(pool)))
    assert sorted(places) == list(range(len(pool)))


def test_batches_hold_examples_of_similar_length():
    order = Order({"a": 1000}, {"a": 1.0}, 16, seed=0)
    lengths = np.array(lengths_of(order.pool(0)))
    spread = [np.ptp(lengths[places]) for places in order.split(0, lengths)]
    assert np.mean(spread) < 0.25 * np.ptp(lengths)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_then_falls(schedule):
    cfg = OptimConfig(steps=100, warmup=0.1, schedule=schedule)
    factors = [lr_factor(s, cfg) for s in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == 1.0 == max(factors)
    assert all(a < b for a, b in pairwise(factors[:10]))
    if schedule == "constant":
        assert factors[-1] == 1.0
    else:
        assert all(a > b for a, b in pairwise(factors[10:]))
        assert 0 < factors[-1] < 0.02
    # cosine's middle
    assert lr_factor(55, OptimConfig(steps=100, warmup=0.1)) == pytest.approx(0.5)


def test_no_warm_up_and_one_step_are_fine():
    assert lr_factor(0, OptimConfig(steps=1, warmup=0.0)) == 1.0
    assert lr_factor(0, OptimConfig(steps=1, warmup=1.0)) == 1.0


def test_step_seeds_differ():
    assert len({step_seed(seed, step) for seed in range(20) for step in range(1000)}) == 20_000


@given(st.integers(0, 2**31))
@settings(deadline=None)
def test_pseudo_queries_are_made_of_the_items_own_words(seed):
    words = item_words(
        "Cast-Iron Skillet, 12 inch", ["Home", "Cookware", "Frying Pans"], "Ironmill"
    )
    query = pseudo_query(words, np.random.default_rng(seed))
    allowed = {"cast-iron", "skillet", "12", "inch", "cookware", "frying", "pans", "ironmill"}
    assert set(query.split()) <= allowed
    assert 1 <= len(query.split()) <= 8
    assert query == pseudo_query(words, np.random.default_rng(seed))


def test_pseudo_queries_of_items_that_say_little():
    rng = np.random.default_rng(0)
    assert pseudo_query(item_words("Tent", None, None), rng) == "tent"
    assert pseudo_query(item_words(None, ["Tents"], ""), rng) == "tents"
    assert pseudo_query(item_words("", [], "Northfold Ltd"), rng) == "northfold ltd"
    assert pseudo_query(ItemWords((), (), ""), rng) == ""
    assert pseudo_query(item_words("北京 烤鸭 店", ["美食"], None), rng)
