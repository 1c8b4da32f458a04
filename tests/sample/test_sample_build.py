"""The builder on a source made here: what it must leave out cannot be seen in its output, only in
its input.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_sample.py"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("esci"), tmp_path_factory.mktemp("sample")
    products = [
        {
            "asin": f"B{9 - i}",
            "title": f"Towel &amp; mat {i}",
            "description": "<p>Soft</p> " + "words and words. " * 90,
            "bullet_points": "Cotton\nwashable",
            "brand": None,
            "color": "Blue" if i else None,
            "image": "https://example.org/i.jpg",
            "price": None,
            "category": [],
            "rating": 4.5,
            "rating_count": 3,
            "is_book": False,
            "query_id": ["67", "99"],
        }
        for i in range(4)
    ]
    lines = [
        line
        for p in products
        for line in (json.dumps({"index": {"_id": p["asin"]}}), json.dumps(p))
    ]
    with zipfile.ZipFile(source / "esci_us_ecommerce_shrunk.ndjson.zip", "w") as archive:
        archive.writestr("esci.ndjson", "\n".join(lines))
    ratings = [{"docId": "B9", "rating": "100.000"}, {"docId": "B6", "rating": "1.000"}]
    judged = [
        {"query": q, "ratings": ratings}
        for q in ("red dog bowl", "t towels kitchen", "apple earbuds")
    ]
    (source / "esci_us_judgments.json").write_text(json.dumps({"judgmentRatings": judged}))
    extra = ["query_string", "Bowls red DOG", "blue dog bowl", "blue dog bowl", "yoga mat"]
    (source / "extra_queries_4.csv").write_text("\n".join(extra))
    subprocess.run(
        [sys.executable, str(SCRIPT), str(source), str(out)], check=True, capture_output=True
    )
    return out


def test_products_lose_query_id_and_markup_and_are_ordered_by_id(built):
    rows = pq.read_table(built / "catalogue.parquet").to_pylist()
    assert [row["item_id"] for row in rows] == ["B6", "B7", "B8", "B9"]
    assert rows[0]["title"] == "Towel & mat 3"
    assert rows[0]["text"].startswith("Cotton washable Soft words")
    assert rows[0]["text"].endswith(".")
    assert len(rows[0]["text"]) <= 900
    assert json.loads(rows[3]["attributes"]) == {"rating": 4.5, "rating_count": 3}
    assert rows[0]["brand"] is None
    assert not any("67" in json.dumps(row, default=str) for row in rows)


def test_a_third_of_the_judged_queries_is_dev_and_grades_are_mapped(built):
    assert pq.read_table(built / "queries.parquet").column("half").to_pylist() == [
        "dev",
        "test",
        "test",
    ]
    assert set(pq.read_table(built / "qrels.parquet").column("grade").to_pylist()) == {1.0, 0.01}


def test_extra_queries_are_distinct_and_unlike_judged_ones(built):
    assert pq.read_table(built / "extra_queries.parquet").column("query").to_pylist() == [
        "blue dog bowl",
        "yoga mat",
    ]
