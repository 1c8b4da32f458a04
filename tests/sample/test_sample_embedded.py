import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sidar.data import sample
from sidar.types import CATALOGUE_SCHEMA

FOLDER = Path(sample.__file__).parent


def test_the_catalogue_holds_the_contract_columns_and_every_product():
    catalogue = sample.load_catalogue()
    assert catalogue.table.schema.equals(CATALOGUE_SCHEMA)
    assert len(catalogue) == len(set(catalogue.item_ids)) == 6764
    assert all(title.strip() for title in catalogue.column("title"))
    assert sum(price is None for price in catalogue.column("price")) == 4774
    assert sum(path == [] for path in catalogue.column("category")) == 252
    assert catalogue.table.column("category").null_count == 0


def test_attributes_carry_colour_and_rating_only():
    keys = Counter(
        key for text in sample.load_catalogue().column("attributes") for key in json.loads(text)
    )
    assert keys == {"color": 5383, "rating": 6663, "rating_count": 6671}


def test_leak_the_judged_sets_of_a_product_are_not_shipped():
    for path in FOLDER.glob("*.parquet"):
        if path.name not in {"queries.parquet", "qrels.parquet"}:
            assert "query_id" not in pq.read_schema(path).names
    assert not any("query_id" in text for text in sample.load_catalogue().column("attributes"))


def test_leak_rows_are_not_in_the_source_order_which_groups_products_by_judged_query():
    ids = list(sample.load_catalogue().item_ids)
    assert ids == sorted(ids)


def test_leak_no_extra_query_resembles_a_judged_one():
    overlap = sample.Overlap(sample.judged_queries())
    extra = sample.extra_queries()
    assert len(extra) == len(set(extra)) == 4990
    assert max(overlap.nearest(query) for query in extra) < sample.TOO_SIMILAR


def test_judged_queries_split_into_50_and_100_by_the_hash_of_their_text():
    dev, test = sample.judged("dev"), sample.judged("test")
    assert (len(dev), len(test)) == (50, 100)
    hashes = {
        half: [sha256(p.query.encode()).hexdigest() for p in sample.judged(half).prompts]
        for half in sample.HALVES
    }
    assert max(hashes["dev"]) < min(hashes["test"])
    assert not set(dev.query_ids) & set(test.query_ids)
    with pytest.raises(ValueError, match="'dev' or 'test'"):
        sample.judged("train")


def test_grades_are_the_four_of_esci_and_name_known_products():
    known = set(sample.load_catalogue().item_ids)
    grades: Counter[float] = Counter()
    for half in sample.HALVES:
        for judged in sample.judged(half).qrels.values():
            assert judged.keys() <= known
            grades.update(judged.values())
    assert grades == {1.0: 3389, 0.1: 1898, 0.01: 305, 0.0: 1086}


def test_the_package_stays_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.parquet")) <= 3e6


def test_inputs_are_written_as_a_users_own_files(tmp_path):
    sample.write_inputs(tmp_path / "inputs")
    table = pq.read_table(tmp_path / "inputs" / "catalogue.parquet")
    assert table.column("item_id").to_pylist() == list(sample.load_catalogue().item_ids)
    for half, size in sample.HALVES.items():
        queries = (tmp_path / "inputs" / f"judged_{half}.queries.tsv").read_text().splitlines()
        qrels = (tmp_path / "inputs" / f"judged_{half}.qrels.tsv").read_text().splitlines()
        assert queries[0] == "query_id\tquery"
        assert qrels[0] == "query_id\titem_id\tgrade"
        assert len(queries) == size + 1
        assert all(line.count("\t") == 1 for line in queries)
        assert {line.split("\t")[0] for line in qrels[1:]} == {
            line.split("\t")[0] for line in queries[1:]
        }
    assert "\t0.01" in (tmp_path / "inputs" / "judged_test.qrels.tsv").read_text()
