"""Growing a catalogue: the same every time, a larger one begins with the smaller, and facts follow
the variant.
"""

import json
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pyarrow.parquet as pq
import pytest
from reference_simulate import shop

from sidar import simulate
from sidar.data import sample, toy
from sidar.simulate.axes import axes_of
from sidar.simulate.facts import read_facts
from sidar.simulate.grow import Growth
from sidar.simulate.lexicon import load_lexicon
from sidar.types import CATALOGUE_SCHEMA

WORDS = load_lexicon()


@pytest.fixture(scope="module")
def grown():
    return simulate.grow(sample.load_catalogue(), 12_000)


@pytest.fixture(scope="module")
def variants(grown):
    """(row, row of the parent, {axis: value}) of every variant."""
    row = {item: r for r, item in enumerate(grown.item_ids)}
    known = [json.loads(a) for a in grown.column("attributes")[6764:]]
    return [(6764 + n, row[a["variant_of"]], a["variant"]) for n, a in enumerate(known)]


def axes(title, path, colour="", brand="", seed=0):
    found = axes_of(title, path, colour, brand, WORDS, np.random.default_rng(seed))
    return {axis.name: axis for axis in found}


def test_its_own_rows_come_first_and_a_larger_growth_begins_with_a_smaller_one(grown):
    catalogue = sample.load_catalogue()
    assert grown.table.schema.equals(CATALOGUE_SCHEMA)
    assert grown.table.slice(0, 6764).equals(catalogue.table.replace_schema_metadata(None))
    assert len(set(grown.item_ids)) == 12_000
    smaller = simulate.grow(catalogue, 9_000)
    assert grown.table.slice(0, 9_000).equals(smaller.table)
    assert not simulate.grow(catalogue, 9_000, seed=1).table.equals(smaller.table)
    assert simulate.grow(catalogue, 6764).table.equals(
        catalogue.table.replace_schema_metadata(None)
    )


def test_the_file_is_the_same_in_every_process_and_says_that_it_is_simulated(tmp_path):
    code = (
        "import sys; from sidar import simulate; from sidar.data import toy;"
        f"simulate.write_grown(toy.catalogue(), 700, r'{tmp_path}/other.parquet');"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "5"})
    assert simulate.write_grown(toy.catalogue(), 700, tmp_path / "one.parquet") == 700
    one, other = ((tmp_path / f"{name}.parquet").read_bytes() for name in ("one", "other"))
    assert sha256(one).digest() == sha256(other).digest()
    assert pq.read_schema(tmp_path / "one.parquet").metadata[b"sidar.simulated"] == b"true"
    again = pq.read_table(tmp_path / "one.parquet").replace_schema_metadata(None)
    chunks = list(Growth(toy.catalogue()).tables(700, chunk=100))
    assert [len(chunk) for chunk in chunks] == [64, 100, 100, 100, 100, 100, 100, 36]
    assert again.to_pylist() == [row for chunk in chunks for row in chunk.to_pylist()]


def test_variants_keep_what_their_product_is(grown, variants):
    facts = read_facts(grown, WORDS)
    category, price, title = grown.column("category"), grown.column("price"), grown.column("title")
    for row, parent, chosen in variants:
        assert facts.nouns[row] == facts.nouns[parent]
        assert facts.brand[row] == facts.brand[parent]
        assert category[row] == category[parent]
        assert (price[row] is None) == (price[parent] is None)
        assert title[row] != title[parent]
        assert chosen
    recoloured = [(row, parent) for row, parent, chosen in variants if set(chosen) == {"colour"}]
    changed = {
        facet for row, parent in recoloured for facet, _ in facts.facts[row] ^ facts.facts[parent]
    }
    assert "colour" in changed
    assert not {"brand", "audience"} & changed
    assert facts.ratings[6764:].sum() > 0
    assert all(facts.ratings[row] <= facts.ratings[parent] for row, parent, _ in variants)


def test_a_colour_variant_has_its_own_colour_and_no_other(grown, variants):
    """The truth of "black …": another shade of the same product is a substitute, not an exact
    answer.
    """
    facts = read_facts(grown, WORDS)
    seen = 0
    for row, _, chosen in variants:
        if "colour" in chosen and facts.department[row]:
            bases = {
                base
                for base, entry in WORDS.colours.items()
                if chosen["colour"].lower() in entry["words"]
            }
            assert {value for facet, value in facts.facts[row] if facet == "colour"} == bases
            assert chosen["colour"] in grown.item(row)["title"]
            seen += 1
    assert seen > 2000


def test_titles_by_hand():
    shoe = axes(
        "Teva Men's Mush Flip Flop,Brick Black,9 M US",
        ["Clothing, Shoes & Jewelry", "Men", "Shoes"],
        "Black",
    )
    assert list(shoe) == ["colour", "size", "design", "model"]
    assert shoe["size"].write("Teva Men's Mush Flip Flop,Brick Black,9 M US", "11") == (
        "Teva Men's Mush Flip Flop,Brick Black,11 M US"
    )
    assert (
        shoe["colour"].write("Teva Flip Flop,Black,9 M US", "Navy") == "Teva Flip Flop,Navy,9 M US"
    )
    assert shoe["colour"].write("Teva Flip Flop", "Navy") == "Teva Flip Flop, Navy"
    shirt = axes(
        "Hanes Tee, White, XL", ["Clothing, Shoes & Jewelry", "Women", "Clothing"], "White"
    )
    assert shirt["size"].write("Hanes Tee, White, XL", "Small") == "Hanes Tee, White, Small"
    assert "X-Large" not in shirt["size"].values  # that is what XL is
    two = axes("Mug, Rose Gold/Blue", ["Home & Kitchen", "Mugs"], "Rose Gold/Blue")
    assert two["colour"].write("Mug, Rose Gold/Blue", "Olive") == "Mug, Olive"
    bed = axes(
        "Zinus 14 Inch Bed Frame, Queen",
        ["Home & Kitchen", "Bedroom Furniture", "Bed Frames"],
        "Black",
    )
    assert (
        bed["size"].write("Zinus 14 Inch Bed Frame, Queen", "Twin XL")
        == "Zinus 14 Inch Bed Frame, Twin XL"
    )
    pack = axes("Gummy Worms, Pack of 8 (1.8oz)", ["Grocery & Gourmet Food", "Candy"])
    assert (
        pack["pack"].write("Gummy Worms, Pack of 8 (1.8oz)", "4")
        == "Gummy Worms, Pack of 4 (1.8oz)"
    )
    assert (
        pack["size"].write("Gummy Worms, Pack of 8 (1.8oz)", "3.6")
        == "Gummy Worms, Pack of 8 (3.6oz)"
    )
    half = pack["pack"].values.index("4")
    assert pack["pack"].factors[half] == pytest.approx(0.5**0.85)
    # nobody asks for a red novel
    assert list(axes("A Novel", ["Books", "Fiction"], "Red")) == ["format", "model"]
    assert (
        axes("A Novel", ["Books"])["format"].write("A Novel", "Hardcover") == "A Novel (Hardcover)"
    )
    brand = axes("Blue Buffalo Dog Food, Blue", ["Pet Supplies", "Dogs"], "Blue", "Blue Buffalo")
    assert "colour" not in brand  # the word is the brand's
    assert "512GB" in axes("Tablet 32 GB", ["Electronics"])["storage"].values
    assert "32GB" not in axes("Tablet 32 GB", ["Electronics"])["storage"].values


def test_retired_items_have_no_variants_and_sizes_are_checked():
    catalogue = shop(
        {"title": "Mug", "category": ["Home", "Mugs"]},
        {"title": "Cup", "category": [], "alive": False},
    )
    grown = simulate.grow(catalogue, 10)
    assert {json.loads(a)["variant_of"] for a in grown.column("attributes")[2:]} == {"i0"}
    with pytest.raises(ValueError, match=r"2 items grows to 2 … 18, not to 19"):
        simulate.grow(catalogue, 19)
    with pytest.raises(ValueError, match="not to 1"):
        simulate.grow(catalogue, 1)


def test_grown_queries_are_answered_by_variants(tmp_path):
    """The simulator runs over a grown catalogue, and its truth holds variants and not only their
    parents.
    """
    grown = simulate.grow(sample.load_catalogue(), 9_000)
    config = simulate.load_config("demo", users=30, requests=200, queries={"count": 150})
    simulate.run(grown, config, tmp_path)
    exact = [
        line.split("\t")
        for line in (tmp_path / "grounded_test.qrels.tsv").read_text().splitlines()[1:]
    ]
    items = {item for _, item, grade in exact if grade == "1"}
    assert {item for item in items if "-" in item}
    assert {item for item in items if "-" not in item}


def test_the_command_writes_a_catalogue_that_the_pipeline_reads(tmp_path):
    from typer.testing import CliRunner

    from sidar.cli import app
    from sidar.config import CatalogueConfig, Config
    from sidar.data.products import read_catalogue

    done = CliRunner().invoke(app, ["grow", str(tmp_path / "shop"), "--items", "7000"])
    assert done.exit_code == 0, done.output
    assert "7,000 items, 236 of them simulated" in done.output
    path = tmp_path / "shop" / "catalogue.parquet"
    catalogue, quarantine = read_catalogue(Config(catalogue=CatalogueConfig(path=str(path))))
    assert (len(catalogue), len(quarantine.rows or [])) == (7000, 0)
    more = CliRunner().invoke(
        app, ["grow", str(tmp_path / "more"), "--items", "7100", "--catalogue", str(path)]
    )
    assert more.exit_code == 0, more.output
