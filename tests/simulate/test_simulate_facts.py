import numpy as np
import pytest
from reference_simulate import sample_facts, shop

from sidar.simulate.facts import read_facts
from sidar.simulate.lexicon import load_lexicon

WOMEN = ["Clothing, Shoes & Jewelry", "Women", "Shoes", "Sandals"]


def read(*items):
    return read_facts(shop(*items), load_lexicon())


def values(facts, row, facet):
    return {value for name, value in facts.facts[row] if name == facet}


def test_a_listed_category_end_names_the_noun_and_a_starred_one_names_all_below():
    facts = read(
        {"title": "X", "category": ["Pet Supplies", "Cats", "Treats", "Snacks"]},
        {"title": "Y", "category": [*WOMEN, "Flip-Flops"]},
        {"title": "Z", "category": ["Clothing, Shoes & Jewelry", "Women"]},
        {"title": "No category"},
    )
    assert facts.nouns == (("cat treat",), ("flip flop",), (), ())


def test_a_retired_item_answers_nothing():
    path = ["Pet Supplies", "Cats", "Treats"]
    facts = read({"title": "X", "category": path, "alive": False}, {"title": "X", "category": path})
    assert facts.nouns == ((), ("cat treat",))


def test_an_unlisted_category_needs_titles_that_bear_it_out():
    borne_out = [
        {"title": f"Oak garden bench {i}", "category": ["Patio", "Wooden Benches"]}
        for i in range(2)
    ]
    not_borne_out = [{"title": "Thing", "category": ["Patio", "Gazebos"]}]
    assert read(*borne_out, *not_borne_out).nouns == (("bench",), ("bench",), ())


def test_a_category_of_two_kinds_leaves_it_to_the_title():
    path = ["Home & Kitchen", "Kitchen & Table Linens", "Placemats & Coasters"]
    titles = ("Cork placemats", "Slate coaster set", "Placemat and coaster", "Something else")
    facts = read(*({"title": title, "category": path} for title in titles))
    assert facts.nouns == (("placemat",), ("coaster",), ("placemat", "coaster"), ())


def test_facts_of_a_shoe():
    title = (
        "Acme Women's Waterproof Faux-Leather Sandal for Travel, X-Large (Pack of 2) 1.50 inch heel"
    )
    facts = read({"title": title, "category": WOMEN, "brand": "Acme®", "colour": "Navy/White"})
    assert values(facts, 0, "audience") == {"women"}
    assert values(facts, 0, "brand") == {"acme"}
    assert values(facts, 0, "colour") == {"blue", "white"}
    assert values(facts, 0, "material") == {"faux leather"}  # and not "leather" as well
    assert values(facts, 0, "feature") == {"waterproof"}
    assert values(facts, 0, "use") == {"travel"}
    assert values(facts, 0, "size") == {"xl", "2 pack", "1.50 inch"}


@pytest.mark.parametrize(
    ("title", "sizes"),
    [
        ("Drain 1-1/2 in. pipe", {"1 1/2 inch"}),
        ("Bottle 32oz, 6-pack", {"32 oz", "6 pack"}),
        ("Fan 52.0 inch", {"52 inch"}),
        ("Single 1 pack", set()),
        ("Model 12-34 thing", set()),
    ],
)
def test_sizes(title, sizes):
    assert values(read({"title": title, "category": ["Tools"]}), 0, "size") == sizes


def test_what_a_title_denies_is_no_fact():
    facts = read(
        {
            "title": "Blanket without glass beads, no cotton, silicone-free, wool",
            "category": ["Home"],
        }
    )
    assert values(facts, 0, "material") == {"wool"}


def test_many_colours_are_one_and_books_have_none():
    facts = read(
        {"title": "Strip", "category": ["Home"], "colour": "Rgb (Red, Green, Blue)"},
        {"title": "Strip", "category": ["Home"], "colour": "red green blue yellow"},
        {
            "title": "Novel",
            "category": ["Books", "Literature & Fiction"],
            "colour": "Tan",
            "brand": "Penguin",
        },
    )
    assert values(facts, 0, "colour") == values(facts, 1, "colour") == {"multicolor"}
    assert not values(facts, 2, "colour") | values(facts, 2, "brand")


def test_a_missing_price_is_the_median_of_its_category_and_has_no_level():
    items = [
        {"title": "A", "category": ["Home", "Beds"], "price": p} for p in (10.0, 20.0, 90.0, None)
    ]
    facts = read(*items, {"title": "B", "category": ["Toys"], "price": None})
    assert facts.price.tolist() == [10.0, 20.0, 90.0, 20.0, 20.0]
    assert facts.price_level[3] == facts.price_level[4] == facts.price_level[1] == 0
    assert facts.price_level[0] < 0 < facts.price_level[2]


def test_a_catalogue_without_a_single_price_still_has_prices():
    assert (read({"title": "A"}).price > 0).all()


def test_most_of_the_sample_has_a_noun_and_rows_agree_with_nouns():
    facts = sample_facts()
    assert np.mean([bool(nouns) for nouns in facts.nouns]) > 0.85
    assert sum(len(rows) for rows in facts.rows_of.values()) == sum(
        len(nouns) for nouns in facts.nouns
    )
    assert all(noun in facts.nouns[row] for noun, rows in facts.rows_of.items() for row in rows)
