"""SID tables as pandas, numpy and other projects leave them: the same codes, or an error that says
what is read.
"""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidar.sid.published import read_published

WANT = [[12, 3, 77], [12, 3, 78]]


@pytest.mark.parametrize(
    "spelling",
    [
        "[12, 3, {}]",
        "(12, 3, {})",
        "[12  3 {}]",
        "[[12] [3] [{}]]",
        "[[12], [3], [{}]]",
        "[[12, 3, {}]]",
        "array([12, 3, {}], dtype=int64)",
        "[np.int64(12), np.int64(3), np.int64({})]",
        "tensor([12, 3, {}])",
        "[12.0, 3.0, {}.0]",
        "['12', '3', '{}']",
        "['<a_12>', '<b_3>', '<c_{}>']",
        "['<a_12>' '<b_3>' '<c_{}>']",
        "<|a_12|><|b_3|><|c_{}|>",
        "<|sid_begin|><|a_12|><|b_3|><|c_{}|><|sid_end|>",
        "a_12-b_3-c_{}",
        "12_3_{}",
        "12|3|{}",
        "12:3:{}",
        "12 3 {} -1",
        "[12, 3, {}, -1]",
        "[12 3 {} -1]",
    ],
)
def test_text_of_a_list_reads_as_the_list(tmp_path, spelling):
    rows = "".join(f'P{n},"{spelling.format(77 + n)}"\n' for n in range(2))
    (tmp_path / "ids.csv").write_text("item_id,sid\n" + rows)
    assert read_published(tmp_path / "ids.csv").codes.tolist() == WANT
    (tmp_path / "ids.json").write_text(
        json.dumps({f"P{n}": spelling.format(77 + n) for n in range(2)})
    )
    assert read_published(tmp_path / "ids.json").codes.tolist() == WANT


def test_numbers_of_any_type_and_padding(tmp_path):
    for kind in (pa.float64(), pa.float32(), pa.int16(), pa.uint8()):
        table = pa.table({"item_id": [1.0, 2.0], "sid": pa.array(WANT, pa.list_(kind))})
        pq.write_table(table, tmp_path / "t.parquet")
        read = read_published(tmp_path / "t.parquet")
        assert (read.item_ids, read.codes.tolist()) == (("1", "2"), WANT)
    pq.write_table(
        pa.table({"item_id": ["a", "b"], "sid": [[1.0, float("nan")], [0.0, 2.0]]}),
        tmp_path / "t.parquet",
    )
    assert read_published(tmp_path / "t.parquet").codes.tolist() == [[1, -1], [0, 2]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "\ufeffitem_id;sid\nP0;12-3-77\nP1;12-3-78\n"),
        ("t.csv.gz", "asin,codes\nP0,12-3-77\nP1,12-3-78\n"),
        ("t.tsv", "parent_asin\ttitle\tsemantic_id\nP0\tx\t12 3 77\nP1\ty\t12 3 78\n"),
        ("t.csv", "sku,level_1,level_2,level_3\nP0,12,3,77\nP1,12,3,78\n"),
        (
            "t.jsonl",
            (
                '{"iid": "P0", "c0": 12, "c1": 3, "c2": 77}\n{"iid": "P1", "c0": 12, "c1": 3, '
                '"c2": '
                "78}\n"
            ),
        ),
        (
            "t.ndjson.gz",
            (
                '{"asin": "P0", "sid": [12, 3, 77], "t": "a\u2028b"}\n{"asin": "P1", "sid": [12, '
                "3, "
                "78]}\n"
            ),
        ),
        (
            "t.json",
            (
                '\ufeff[{"pid": "P0", "sid": [[12], [3], [77]]}, {"pid": "P1", "sid": [[12], [3], '
                "[78]]}]"
            ),
        ),
    ],
)
def test_files_and_columns_of_others(tmp_path, name, content):
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    read = read_published(tmp_path / name)
    assert (read.item_ids, read.codes.tolist()) == (("P0", "P1"), WANT)


def test_a_mapping_names_any_columns(tmp_path):
    (tmp_path / "t.csv").write_text("thing,first,second,sid\nP0,12,3,9\nP1,12,4,9\n")
    columns = {"item_id": "thing", "sid": "first, second"}
    assert read_published(tmp_path / "t.csv", columns=columns).codes.tolist() == [[12, 3], [12, 4]]
    with pytest.raises(
        ValueError, match=r"has columns thing, first, second, sid; want item_id .*or name yours"
    ):
        read_published(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"sid.table.columns: 'code' is neither"):
        read_published(tmp_path / "t.csv", columns={"code": "sid"})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            [[1, 2], [3, 4]],
            "item 'P0' has several SIDs or nested codes, .*want one SID per item: a list such as",
        ),
        ([1.5, 2], "token 1.5 is not parseable"),
        ("12.5-3", "token '12.5' is not parseable"),
        (7, "item 'P0' has the SID 7; want a list such as .*1-12 or 1 12"),
        ({"a": 1}, "want a list such as"),
        ("[1, -1, 2]", "token 2 follows the padding"),
    ],
)
def test_refusals_say_what_is_read(tmp_path, value, says):
    (tmp_path / "t.jsonl").write_text(json.dumps({"item_id": "P0", "sid": value}))
    with pytest.raises(ValueError, match=says):
        read_published(tmp_path / "t.jsonl")


def test_a_list_as_an_item_id_is_joined_or_refused_and_never_printed(tmp_path):
    file = tmp_path / "sids.jsonl"
    file.write_text('{"item_id": ["a", 7], "sid": [1, 2]}\n{"item_id": 8, "sid": [1, 3]}\n')
    assert read_published(file).item_ids == ("a, 7", "8")
    for value, says in (
        ("[]", "entry 1 has no item id"),
        ("[null]", "entry 1 has no item id"),
        ('{"id": "a"}', r"entry 1: item_id holds \{.*, where an id is wanted"),
        ('[["a"]]', r"entry 1: item_id holds \[\[.*, where an id is wanted"),
    ):
        file.write_text(f'{{"item_id": {value}, "sid": [1, 2]}}\n')
        with pytest.raises(ValueError, match=says):
            read_published(file)


def test_ids_that_are_missing_and_records_that_cannot_be_cut(tmp_path):
    (tmp_path / "t.csv").write_text("item_id,sid\n,1-2\n")
    with pytest.raises(ValueError, match="entry 1 has no item id"):
        read_published(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("item_id,sid\nP0,1,2\n")
    with pytest.raises(ValueError, match=r"t.csv: its header has 2 columns and its records have 3"):
        read_published(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("ids", "want"),
    [
        (pa.array([b"P0", b"P1"]), ("P0", "P1")),
        (pa.array(["12.0", "13.0"]), ("12", "13")),
        (pa.array(["P0\u200b", "\u00a0P1"]), ("P0", "P1")),
        (pa.array(["007", "P7.0"]).dictionary_encode(), ("007", "P7.0")),
    ],
)
def test_item_ids_read_as_those_of_the_catalogue(tmp_path, ids, want):
    pq.write_table(pa.table({"item_id": ids, "sid": WANT}), tmp_path / "t.parquet")
    assert read_published(tmp_path / "t.parquet").item_ids == want
    texts = [value.decode() if isinstance(value, bytes) else value for value in ids.to_pylist()]
    (tmp_path / "t.json").write_text(json.dumps(dict(zip(texts, WANT, strict=True))))
    assert read_published(tmp_path / "t.json").item_ids == want
    (tmp_path / "t.csv").write_text(
        "item_id,sid\n" + "".join(f"{text},12-3-7{n}\n" for n, text in enumerate(texts))
    )
    assert read_published(tmp_path / "t.csv").item_ids == want
    pq.write_table(pa.table({"item_id": [2.0**53, 1.0], "sid": WANT}), tmp_path / "t.parquet")
    with pytest.raises(
        ValueError, match=r"t\.parquet: column 'item_id' holds whole doubles, e.g. 9007199254740992"
    ):
        read_published(tmp_path / "t.parquet")
