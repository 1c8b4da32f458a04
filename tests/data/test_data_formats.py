"""Formats of other people, on fixtures built in their layouts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidar.config import Config
from sidar.data import build, open_dataset, read_catalogue
from sidar.data.duck import Duck
from sidar.data.readers import open_events


def config(**sections: dict) -> Config:
    return Config.model_validate({"threads": 1, **sections})


def events(work: Path, **section: object) -> list[dict]:
    cfg = config(events=section)
    with Duck(work, "256MB", 1) as duck:
        source = open_events(duck, cfg.events)
        columns = "ts, user_id, session_id, request_id, query, item_id, position, action, place"
        return duck.table(
            f"SELECT {columns} FROM ({source.sql}) ORDER BY place, request_id, position"
        ).to_pylist()


def ubi_event(
    action: str,
    query_id: str,
    ts: object,
    item: str | None = None,
    ordinal: object = None,
    **more: object,
) -> str:
    attributes: dict = {"session_id": "s-inside", "dwell_time": 2.5}
    if item is not None:
        attributes["object"] = {"object_id": item, "object_id_field": "sku"}
    if ordinal is not None:
        attributes["position"] = {"ordinal": ordinal}
    line = {
        "action_name": action,
        "query_id": query_id,
        "client_id": "c1",
        "timestamp": ts,
        "event_attributes": attributes,
    }
    return json.dumps(line | more)


def write_ubi(path: Path) -> None:
    query = {
        "query_id": "q1",
        "client_id": "c1",
        "user_query": "red shoes",
        "timestamp": "2026-01-05T10:00:00.000Z",
    }
    lines = [json.dumps(query)]
    for position, item in enumerate("abc"):
        lines.append(
            ubi_event("impression", "q1", "2026-01-05T10:00:00.500Z", item, position, user_id="")
        )
    lines.append(
        ubi_event("click", "q1", 1767607205000, "b", 1, user_query="red shoes", session_id="s1")
    )
    lines.append(ubi_event("add_to_cart", "q1", 1767607206000, "b", 1, user_id="u7"))
    lines.append(ubi_event("purchase", "q1", 1767607207000, "b"))
    lines.append(ubi_event("on_search", "q1", 1767607208000))
    lines.append(ubi_event("brand_filter", "q1", 1767607209000, "filter-9", 4))
    with path.open("w") as f:
        for line in lines:
            kind = "ubi_events" if "action_name" in line else "ubi_queries"
            f.write(json.dumps({"index": {"_index": kind, "_id": "x"}}) + "\n" + line + "\n")


def test_ubi_joins_queries_counts_from_one_and_ignores_what_is_not_ours(tmp_path: Path) -> None:
    write_ubi(tmp_path / "ubi.ndjson")
    rows = events(tmp_path / "w", format="ubi", path=str(tmp_path / "ubi.ndjson"))
    assert [r["action"] for r in rows[:3]] == ["impression"] * 3
    assert [int(r["position"]) for r in rows[:3]] == [1, 2, 3]  # ordinals are 0-based
    # from the query line where the event has none
    assert {r["query"] for r in rows} == {"red shoes"}
    assert [r["user_id"] for r in rows[2:5]] == ["c1", "c1", "u7"]
    assert [r["session_id"] for r in rows[2:4]] == ["s-inside", "s1"]
    assert rows[0]["place"] == 4  # line of the file: bulk lines count

    pq.write_table(
        pa.table({"item_id": list("abc"), "title": ["A", "B", "C"]}), tmp_path / "c.parquet"
    )
    cfg = config(
        catalogue={"path": str(tmp_path / "c.parquet")},
        events={"format": "ubi", "path": str(tmp_path / "ubi.ndjson")},
    )
    cfg.split.valid_day, cfg.split.test_day = 2, 3
    with pytest.raises(ValueError, match=r"covers 1 day.*leave_one_out"):
        build(cfg, tmp_path / "data")
    cfg.split.unit = "leave_one_out"
    report = build(cfg, tmp_path / "data")
    assert report["events"]["ignored_actions"] == {"on_search": 1, "brand_filter": 1}
    assert report["events"]["actions"] == {"impression": 3, "click": 1, "cart": 1, "order": 1}
    assert report["quarantined"] == 0


def esci_product(asin: str, **more: object) -> str:
    fields = {
        "title": f"title of {asin}",
        "description": "said",
        "bullet_points": "one\ntwo",
        "brand": "B",
    }
    fields |= {
        "color": "red",
        "image": "http://x",
        "price": None,
        "category": ["Home", "Towels"],
        "rating": 4.5,
    }
    return json.dumps(
        fields | {"rating_count": 3, "is_book": False, "query_id": ["67", "9"], "asin": asin} | more
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_esci_reads_products_and_never_the_leaking_query_ids(tmp_path: Path, zipped: bool) -> None:
    lines = []
    for asin in ("B1", "B2"):
        lines += [json.dumps({"index": {"_index": "ecommerce", "_id": asin}}), esci_product(asin)]
    plain = tmp_path / "esci.ndjson"
    plain.write_text("\n".join(lines) + "\n")
    path = plain
    if zipped:
        path = tmp_path / "esci.ndjson.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(plain, "esci.ndjson")
        plain.unlink()
    catalogue, quarantine = read_catalogue(config(catalogue={"format": "esci", "path": str(path)}))
    assert quarantine.total == 2
    item = catalogue.item(0)
    assert (item["item_id"], item["text"], item["category"]) == (
        "B1",
        "one two said",
        ["Home", "Towels"],
    )
    assert json.loads(item["attributes"]) == {
        "color": "red",
        "rating": 4.5,
        "rating_count": 3,
        "is_book": False,
    }
    assert not any(
        "67" in str(v) or "query" in str(v)
        for row in catalogue.table.to_pylist()
        for v in row.values()
    )


def test_a_damaged_zip_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "esci.ndjson.zip").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match="no zip file"):
        read_catalogue(config(catalogue={"format": "esci", "path": str(tmp_path)}))
    with zipfile.ZipFile(tmp_path / "esci.ndjson.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match=r"holds no member that ends in \.ndjson"):
        read_catalogue(config(catalogue={"format": "esci", "path": str(tmp_path)}))


def write_full_esci(folder: Path) -> None:
    folder.mkdir()
    products = [
        {"product_id": p, "product_title": f"{p} {locale}", "product_locale": locale,
        "product_description": "<p>d",
         "product_bullet_point": "b", "product_brand": "X", "product_color": colour}
        for p, locale, colour in (("P1", "us", "red"), ("P2", "us", ""), ("P1", "es", "rojo"),
        ("P3", "us", None))
    ]  # fmt: skip
    examples = [
        {"example_id": n, "query": f"query {q}", "query_id": q, "product_id": p,
        "product_locale": locale,
         "esci_label": label, "small_version": 1, "large_version": 1, "split": split}
        for n, (q, p, locale, label, split) in enumerate(
            [(q, p, "us", label, "test" if q == 3 else "train") for q in (1, 2, 20, 3, 4) for p,
            label in
             (("P1", "E"), ("P2", "S"), ("P3", "I"))] + [(9, "P1", "es", "E", "train")])
    ]  # fmt: skip
    pq.write_table(
        pa.Table.from_pylist(products), folder / "shopping_queries_dataset_products.parquet"
    )
    pq.write_table(
        pa.Table.from_pylist(examples), folder / "shopping_queries_dataset_examples.parquet"
    )


def test_full_esci_keeps_its_own_split_and_one_locale(tmp_path: Path) -> None:
    write_full_esci(tmp_path / "esci")
    section = {"format": "esci_full", "path": str(tmp_path / "esci")}
    report = build(config(catalogue=section, events=section), tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    assert data.catalogue.column("title") == ["P1 us", "P2 us", "P3 us"]
    assert data.catalogue.column("attributes") == ['{"color":"red"}', None, None]
    queries = {
        split: {r.prompt.query for r in data.requests(split)}
        for split in ("train", "valid", "test")
    }
    assert queries == {
        "train": {"query 1", "query 2", "query 4"},
        "valid": {"query 20"},
        "test": {"query 3"},
    }
    assert {tuple(n) for n in data.lists().column("negatives").to_pylist()} <= {(1, 2), (2, 1)}
    assert report["events"]["actions"] == {"impression": 10, "click": 5, "cart": 0, "order": 0}
    es = config(catalogue=section | {"locale": "es"}, events=section | {"locale": "es"})
    assert len(read_catalogue(es)[0]) == 1


def test_sequences_from_json_are_next_item_requests(tmp_path: Path) -> None:
    items = {
        str(n): {"title": f"item {n}", "description": "d", "brand": "b", "categories": "A, B"}
        for n in range(6)
    }
    (tmp_path / "Toy.item.json").write_text(json.dumps(items))
    (tmp_path / "Toy.inter.json").write_text(
        json.dumps({"u1": [0, 1, 2, 3], "u2": [4, 5], "u3": [2, 2, 0]})
    )
    section = {"format": "sequences", "path": str(tmp_path)}
    cfg = config(catalogue=section, events=section, split={"unit": "leave_one_out"})
    with pytest.raises(ValueError, match=r"'sampled'.*'beam'"):
        build(cfg, tmp_path / "data")
    cfg.preference.negatives = "beam"
    report = build(cfg, tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    assert data.catalogue.item(2)["category"] == ["A", "B"]
    test = {r.prompt.history: r.rows for r in data.requests("test")}
    assert test == {(0, 1, 2): (3,), (2, 2): (0,)}
    assert {r.prompt.history: r.rows for r in data.requests("valid")} == {(0, 1): (2,), (2,): (2,)}
    # a first step has neither query nor history: nothing to learn from
    sft = data.sft().to_pylist()
    assert {(tuple(r["history"]), tuple(r["positives"])) for r in sft} == {
        ((0,), (1,)),
        ((4,), (5,)),
    }
    assert report["split"]["unit"] == "leave_one_out"
    assert [s["name"] for s in report["eval"]] == ["last-valid-clicks", "last-test-clicks"]
    assert not any("u1" in r.request_id for r in data.requests())  # ids must not give users away


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_sequences_from_tables(tmp_path: Path, ending: str) -> None:
    rows = [{"who": "u1", "basket": ["a", "b", "c"]}, {"who": "u2", "basket": ["c"]}]
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    else:
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"user_id": "who", "item_id": "basket"}
    found = events(
        tmp_path / "w", format="sequences", path=str(tmp_path / f"log.{ending}"), columns=columns
    )
    assert [(r["user_id"], r["item_id"], r["ts"]) for r in found] == [
        ("u1", "a", 0),
        ("u1", "b", 1),
        ("u1", "c", 2),
        ("u2", "c", 0),
    ]
    with pytest.raises(ValueError, match="no column 'items'"):
        events(
            tmp_path / "w2",
            format="sequences",
            path=str(tmp_path / f"log.{ending}"),
            columns={"user_id": "who"},
        )


def test_sequences_that_are_no_lists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.inter.json").write_text('{"u": 5}')
    with pytest.raises(ValueError, match="user 'u' is no list"):
        events(tmp_path / "w", format="sequences", path=str(tmp_path))
    (tmp_path / "x.inter.json").write_text("[1]")
    with pytest.raises(ValueError, match="no JSON object"):
        events(tmp_path / "w", format="sequences", path=str(tmp_path))
    (tmp_path / "x.inter.json").write_text("{")
    with pytest.raises(ValueError, match="not UTF-8 JSON"):
        events(tmp_path / "w", format="sequences", path=str(tmp_path))


def test_kuaisearch_recall_and_rank_rows_say_the_same(tmp_path: Path) -> None:
    keys = {
        "user_id": 1,
        "session_id": 8,
        "query": "广场舞 服装",
        "time_index": 384565,
        "split": "train",
    }
    recall = keys | {
        "impressed_item_ids": [5, 6, 7],
        "clicked_item_ids": [6, 7],
        "purchased_item_ids": [7],
    }
    ranked = [
        keys | {"target_item_id": i, "is_clicked": int(i > 5), "is_purchased": int(i == 7)}
        for i in (5, 6, 7)
    ]
    (tmp_path / "recall.jsonl").write_text(json.dumps(recall, ensure_ascii=False) + "\n")
    (tmp_path / "rank.jsonl").write_text(
        "\n".join(json.dumps(r, ensure_ascii=False) for r in ranked) + "\n"
    )
    one = events(tmp_path / "w1", format="kuaisearch", path=str(tmp_path / "recall.jsonl"))
    many = events(tmp_path / "w2", format="kuaisearch", path=str(tmp_path / "rank.jsonl"))
    said = [
        {(r["request_id"], r["query"], r["item_id"], r["action"], r["ts"]) for r in rows}
        for rows in (one, many)
    ]
    assert said[0] == said[1]
    assert {(item, action) for _, _, item, action, _ in said[0]} == {
        ("5", "impression"), ("6", "impression"), ("7", "impression"), ("6", "click"), ("7",
        "click"), ("7", "order"),
    }  # fmt: skip
    item = {
        "item_id": 5,
        "item_title": "舞蹈服",
        "brand_name": "B",
        "seller_name": "S",
        "category_level1_name": "女装",
    }
    (tmp_path / "items.jsonl").write_text(
        json.dumps(item | {"category_level2_name": "裙"}, ensure_ascii=False) + "\n"
    )
    catalogue, _ = read_catalogue(
        config(catalogue={"format": "kuaisearch", "path": str(tmp_path / "items.jsonl")})
    )
    assert catalogue.item(0)["title"] == "舞蹈服"
    assert catalogue.item(0)["category"] == ["女装", "裙"]


def test_kuaisearch_ids_that_a_tool_made_doubles_are_one_id(tmp_path: Path) -> None:
    keys = {"user_id": 1.0, "session_id": 8.0, "query": "裙", "time_index": 384565.0}
    recall = keys | {
        "impressed_item_ids": [5.0, 6.0],
        "clicked_item_ids": [6],
        "purchased_item_ids": [],
    }
    ranked = [keys | {"target_item_id": i, "is_clicked": click, "is_purchased": 0.0} for i, click in
              ((5.0, 0.0), (6.0, 1.0))]  # fmt: skip
    (tmp_path / "recall.jsonl").write_text(json.dumps(recall) + "\n")
    (tmp_path / "rank.jsonl").write_text("\n".join(map(json.dumps, ranked)) + "\n")
    for name in ("recall", "rank"):
        rows = events(tmp_path / name, format="kuaisearch", path=str(tmp_path / f"{name}.jsonl"))
        done = {(r["item_id"], r["action"], r["user_id"], r["session_id"]) for r in rows}
        assert done == {
            (i, a, "1", "8") for i, a in (("5", "impression"), ("6", "impression"), ("6", "click"))
        }
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": 12.0, "item_title": "裙"}\n{"item_id": "012", "item_title": "b"}\n'
    )
    catalogue, _ = read_catalogue(
        config(catalogue={"format": "kuaisearch", "path": str(tmp_path / "items.jsonl")})
    )
    assert catalogue.table.column("item_id").to_pylist() == ["12", "012"]


def test_jdsearch_histories_and_test_queries(tmp_path: Path) -> None:
    def terms(*ids: int) -> str:
        return "\x18".join(map(str, ids))

    lines = [
        [terms(12, 32), "456_457_789", "3.0_0.0_1.0", f"{terms(3, 1)}_{terms(3, 1)}_-1_{terms(12)}",
         "889_456_256_345", "ORD_CLICK_CLICK_FLW", "0_12_4_5_60"],
        [terms(7), "457", "0.0", "", "", "", "0"],
    ]  # fmt: skip
    (tmp_path / "release_data.txt").write_text("\n".join("\t".join(line) for line in lines) + "\n")
    products = [[str(w), terms(w, w + 1), "b9", "", "c1", terms(5), "c2", "", "", "", "", "",
    "shop4"] for w in
                (456, 457, 789, 889, 256, 345)]  # fmt: skip
    (tmp_path / "product_data.txt").write_text("\n".join("\t".join(p) for p in products) + "\n")
    found = events(tmp_path / "w", format="jdsearch", path=str(tmp_path))
    first = [r for r in found if r["place"] == 1]
    history = sorted(
        (r["ts"], r["query"], r["item_id"], r["action"])
        for r in first
        if not r["request_id"].endswith("-0")
    )
    assert history == [
        (0.0, "3 1", "889", "ORD"), (12.0, "3 1", "456", "CLICK"), (16.0, "", "256", "CLICK"),
        (21.0, "12", "345", "FLW"),
    ]  # fmt: skip
    assert len({r["request_id"] for r in first}) == 4  # the run of equal queries is one request
    asked = [
        (r["position"], r["item_id"], r["action"], r["ts"])
        for r in first
        if r["request_id"].endswith("-0")
    ]
    assert asked == [
        (1, "456", "order", 81.0),
        (2, "457", "impression", 81.0),
        (3, "789", "click", 81.0),
    ]

    section = {"format": "jdsearch", "path": str(tmp_path)}
    cfg = config(catalogue=section, events=section, split={"unit": "leave_one_out"})
    report = build(cfg, tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    assert data.catalogue.item(0) | {"lineage": 0} == data.catalogue.item(0) | {"lineage": 0}
    assert data.catalogue.item(0)["title"] == "456 457"
    assert data.catalogue.item(0)["category"] == ["5", "c2"]
    assert report["events"]["ignored_actions"] == {"flw": 1}
    test = list(data.requests("test"))
    assert [(r.prompt.query, r.rows, r.actions) for r in test] == [("12 32", (0, 1, 2), (3, 0, 1))]
    assert test[0].prompt.history == (3, 0, 4)
    cfg.events.actions = {"FLW": "click"}
    assert build(cfg, tmp_path / "data")["events"]["actions"]["click"] == 4
