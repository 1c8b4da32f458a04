"""Config, shoppers, schedule, shelf and behaviour, each by itself."""

import numpy as np
import pytest
from pydantic import ValidationError
from reference_simulate import rng, sample_facts, shop, small_config

from sidar.data import sample
from sidar.simulate import load_config
from sidar.simulate.behaviour import act, chances
from sidar.simulate.facts import read_facts
from sidar.simulate.lexicon import load_lexicon
from sidar.simulate.schedule import GroupSampler
from sidar.simulate.shelf import Shelf
from sidar.simulate.shoppers import AGE_BANDS, GENDERS, Taste, draw_shoppers


def test_presets_differ_in_size_only_and_changes_merge():
    demo, full = load_config("demo"), load_config("full")
    assert full.queries.count >= 5000
    assert demo.behaviour == full.behaviour
    changed = load_config("demo", logger={"noise": 0.5})
    assert changed.logger.noise == 0.5
    assert changed.logger.pool == demo.logger.pool
    assert changed.hash != demo.hash == load_config("demo").hash


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="no preset 'huge'; there are demo, full, busy"):
        load_config("huge")
    with pytest.raises(ValidationError, match="leave a share for the test"):
        small_config(queries={"train": 0.9, "valid": 0.1})
    with pytest.raises(ValidationError, match="shown_min exceeds"):
        small_config(logger={"shown_min": 30})
    with pytest.raises(ValidationError, match="exceeds the candidates"):
        small_config(logger={"shown_max": 500})
    with pytest.raises(ValidationError, match=r"behaviour\.cart needs four logits"):
        small_config(behaviour={"cart": [0.0]})
    with pytest.raises(ValidationError, match="Extra inputs"):
        small_config(requets=5)


def shoppers(n=4000):
    cfg = small_config(users=n)
    homes = ("Beauty & Personal Care", "Tools & Home Improvement", "Toys & Games")
    return draw_shoppers(
        cfg, homes, np.array([0.3, 0.4, 0.3]), n_colours=len(load_lexicon().colours), rng=rng()
    )


def test_profiles_move_interests_and_tastes():
    who = shoppers()
    beauty = who.interest[:, 0]
    female, male = GENDERS.index("female"), GENDERS.index("male")
    assert beauty[who.gender == female].mean() > 1.5 * beauty[who.gender == male].mean()
    assert (
        who.price[who.age == AGE_BANDS.index("45-54")].mean() > who.price[who.age == 0].mean() + 1
    )
    groups = who.age * 4 + who.region
    within = np.mean([who.brand[groups == g].var(axis=0).mean() for g in np.unique(groups)])
    assert 0.5 < within / who.brand.var(axis=0).mean() < 0.95  # a profile explains a part, not all
    assert np.allclose(who.interest.sum(axis=1), 1)


def test_the_users_table_hides_the_tastes():
    table = shoppers(n=400).table()
    assert table.column_names == ["user_id", "gender", "age_band", "region"]
    assert set(table["gender"].to_pylist()) == {"female", "male", None}


def test_taste_is_about_standard_and_neutral_about_the_unknown():
    facts = read_facts(
        shop({"title": "A"}, *[{"title": "B", "brand": f"b{i}"} for i in range(50)]), load_lexicon()
    )
    who = shoppers()
    cfg = small_config(users=4000, taste={"brand": 1.0})
    taste = Taste.of(who, facts, load_lexicon(), cfg, rng())
    users = np.arange(4000)
    assert (taste(users, np.zeros(4000, dtype=int)) == 0).all()
    assert 0.6 < taste(users, 1 + users % 50).std() < 1.4


def test_group_sampler_follows_the_weights():
    groups, weights = np.array([2, 0, 2, 0, 2]), np.array([1.0, 3.0, 2.0, 1.0, 1.0])
    sampler = GroupSampler(np.arange(5), groups, weights, 4)
    assert sampler.weight().tolist() == [4.0, 0.0, 4.0, 0.0]
    drawn = sampler.draw(np.full(20_000, 2), rng())
    assert np.abs(np.bincount(drawn, minlength=5) / 20_000 - [0.25, 0, 0.5, 0, 0.25]).max() < 0.02
    assert set(sampler.draw(np.zeros(100, dtype=int), rng())) == {1, 3}


def shelf(queries=("red dog bowl", "zzzqqq"), launch=None, **settings):
    catalogue, facts = sample.load_catalogue(), sample_facts()
    launch = np.zeros(len(catalogue), dtype=np.int64) if launch is None else launch
    homes = ["Pet Supplies"] * len(queries)
    return Shelf(
        catalogue, facts, queries, homes, launch, small_config(logger=settings).logger, rng()
    )


def test_pages_hold_distinct_items_and_the_asked_number():
    n = 300
    shown = shelf().show(np.arange(n) % 2, np.ones(n, dtype=np.int64), np.zeros(n, dtype=bool))
    assert shown.n.min() == 10
    assert shown.n.max() == 20
    for rows, k in zip(shown.rows, shown.n, strict=True):
        assert len(set(rows[:k].tolist())) == k
        assert rows[:k].min() >= 0
    request, row, position = shown.flat()
    assert len(row) == shown.n.sum()
    assert (np.bincount(request) == shown.n).all()
    assert (position[np.flatnonzero(np.diff(request, prepend=-1))] == 1).all()


def test_an_unlaunched_item_is_not_shown_and_a_launched_one_is():
    first = (
        shelf(noise=0.0, explore=0.0)
        .show(np.array([0]), np.array([1]), np.array([False]))
        .rows[0, 0]
    )
    launch = np.zeros(len(sample.load_catalogue()), dtype=np.int64)
    launch[first] = 100
    late = shelf(launch=launch, noise=0.0, explore=0.0)
    pages = late.show(np.array([0, 0]), np.array([99, 100]), np.zeros(2, dtype=bool))
    assert first not in pages.rows[0, : pages.n[0]]
    assert first in pages.rows[1, : pages.n[1]]


def test_without_noise_the_page_is_in_order_of_the_mixture_and_clicks_raise_an_item():
    quiet = shelf(noise=0.0, explore=0.0, lexical=0.0, popularity=1.0)
    ask = (np.array([0]), np.array([1]), np.array([False]))
    page = quiet.show(*ask)
    shown = page.rows[0, : page.n[0]]
    assert (np.diff(quiet.popularity()[shown]) <= 0).all()
    last = int(quiet.show(*ask).rows[0, 9])
    quiet.learn(np.full(1000, last))
    assert quiet.show(*ask).rows[0, 0] == last


def test_random_requests_show_the_same_items_in_uniform_order():
    n = 3000
    quiet = shelf(noise=0.0, explore=0.0, shown_min=10, shown_max=10)
    ordered = quiet.show(np.zeros(1, dtype=int), np.ones(1), np.zeros(1, dtype=bool)).rows[0]
    mixed = quiet.show(np.zeros(n, dtype=int), np.ones(n), np.ones(n, dtype=bool)).rows
    assert {frozenset(page) for page in mixed.tolist()} == {frozenset(ordered.tolist())}
    places = (mixed == ordered[0]).mean(axis=0)
    assert np.abs(places - 0.1).max() < 0.03


def test_the_explorer_places_about_its_share():
    n = 400
    ask = (np.zeros(n, dtype=int), np.ones(n), np.zeros(n, dtype=bool))
    usual = set(shelf(noise=0.0, explore=0.0, shown_min=20).show(*ask).rows[0].tolist())
    pages = shelf(noise=0.0, explore=0.2, shown_min=20).show(*ask).rows
    assert 0.1 < np.mean([row not in usual for row in pages.ravel().tolist()]) < 0.25


def test_chances_fall_with_the_grade_and_rise_with_taste():
    cfg = small_config().behaviour
    codes, taste = np.array([0, 1, 2, 3, 0]), np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    found = chances(codes, taste, cfg)
    for chance in (found.click, found.cart, found.order, found.utility):
        assert (np.diff(chance[:4]) < 0).all()
        assert chance[4] > chance[0]
    assert np.allclose(found.click[0], 1 / (1 + np.exp(-cfg.click[0])))


def test_acts_are_nested_and_examination_knows_the_position_only():
    n, cfg = 200_000, small_config().behaviour
    position = 1 + np.arange(n) % 20
    codes = rng(1).integers(4, size=n)
    acts = act(position, chances(codes, np.zeros(n), cfg), cfg, rng(2))
    assert (acts.order <= acts.cart).all()
    assert (acts.cart <= acts.click).all()
    assert (acts.click <= acts.examined).all()
    for k in (1, 5, 20):
        assert abs(acts.examined[position == k].mean() - k**-cfg.examine) < 0.015
    seen = [acts.examined[codes == code].mean() for code in range(4)]
    assert max(seen) - min(seen) < 0.015
