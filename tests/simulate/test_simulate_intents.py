import numpy as np
import pytest
from reference_simulate import judge_slowly, rng, sample_facts, shop, small_config

from sidar.simulate.facts import read_facts
from sidar.simulate.intents import EXACT, GRADES, RELATED, Intent, draw_intents, judge, relatives
from sidar.simulate.lexicon import load_lexicon

SLIPPERS = ["Clothing, Shoes & Jewelry", "{}", "Shoes", "Slippers"]


def slippers(who, brand, colour):
    path = [part.format(who) for part in SLIPPERS]
    return {"title": f"{brand} slipper", "category": path, "brand": brand, "colour": colour}


def grades(intent, facts):
    truth = judge(intent, facts, relatives(facts), max_related=99)
    return {
        row: GRADES[code]
        for row, code in zip(truth.rows.tolist(), truth.codes.tolist(), strict=True)
    }


def test_the_rule_by_hand():
    facts = read_facts(
        shop(
            slippers("Women", "Ugg", "Black"),
            slippers("Women", "Ugg", "Red"),
            slippers("Men", "Ugg", "Black"),
            slippers("Women", "Clarks", "Red"),
            {"title": "Bed", "category": ["Home", "Beds"]},
        ),
        load_lexicon(),
    )
    wanted = Intent("slipper", (("audience", "women"), ("brand", "ugg"), ("colour", "black")))
    # 0: all three; 1: another colour; 2: for men, which no woman's query forgives; 3: two facts
    # missing
    assert grades(wanted, facts) == {0: 1.0, 1: 0.1, 2: 0.01, 3: 0.01}
    assert grades(Intent("slipper"), facts) == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}


def test_the_rule_equals_its_slow_twin_on_the_sample():
    facts = sample_facts()
    drawn = list(draw_intents(facts, small_config().queries, rng(1)))
    near = relatives(facts)
    for intent in drawn[::7]:
        truth = judge(intent, facts, near, max_related=10**6)
        assert {
            r: GRADES[c] for r, c in zip(truth.rows.tolist(), truth.codes.tolist(), strict=True)
        } == judge_slowly(intent, facts)


def test_every_intent_has_exact_items_and_a_bounded_truth():
    cfg = small_config().queries
    drawn = draw_intents(sample_facts(), cfg, rng())
    assert len(drawn) >= cfg.count
    for truth in drawn.values():
        assert 1 <= len(truth.exact) <= cfg.max_exact
        assert (truth.codes == RELATED).sum() <= cfg.max_related
        assert len(set(truth.rows.tolist())) == len(truth.rows)
        assert (np.diff(truth.codes) >= 0).all()


def test_lengths_and_single_answers_follow_the_config():
    cfg = small_config(
        queries={"count": 2000, "single": 0.1, "constraints": [0.0, 0.5, 0.3, 0.2]}
    ).queries
    drawn = draw_intents(sample_facts(), cfg, rng())
    lengths = np.bincount([len(intent.constraints) for intent in drawn], minlength=4) / len(drawn)
    assert np.abs(lengths - cfg.constraints).max() < 0.02
    assert np.mean([(truth.codes == EXACT).sum() == 1 for truth in drawn.values()]) <= 0.11


def test_no_intent_says_a_thing_twice():
    for intent in draw_intents(sample_facts(), small_config().queries, rng()):
        facets = [facet for facet, _ in intent.constraints]
        assert len(set(facets)) == len(facets)
        assert not {w[:4] for w in intent.noun.split()} & {
            w[:4] for _, v in intent.constraints for w in v.split()
        }


def test_the_embedded_sample_grounds_far_more_than_five_thousand():
    cfg = small_config(queries={"count": 15_000, "single": 1.0}).queries
    assert len(draw_intents(sample_facts(), cfg, rng())) >= 15_000


def test_too_small_a_catalogue_says_what_to_change():
    facts = read_facts(shop(*[slippers("Women", "Ugg", "Black")] * 3), load_lexicon())
    with pytest.raises(
        ValueError, match=r"grounds \d+ intents, fewer than queries.count = 300; lower the count"
    ):
        draw_intents(facts, small_config().queries, rng())
