"""SID tables of others: every form reads as the same codes, what is written reads back, errors name
item and token.
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_index import semantic_ids

from sidar.sid.published import read_published, write_published
from sidar.sid.table import load_sids

SIZES = (4, 3, 2)
SID = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1))
TUPLES = st.lists(
    st.tuples(SID, st.integers(1, 3)).map(lambda t: t[0][: t[1]]), min_size=1, max_size=9
)


@given(
    TUPLES,
    st.sampled_from(["json", "jsonl", "csv", "parquet"]),
    st.sampled_from(["tokens", "text", "codes"]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_reads_back(tmp_path_factory, tuples, suffix, form):
    path = tmp_path_factory.mktemp("ids") / f"ids.{suffix}"
    ids = [f'p"{i},\n.' if suffix != "csv" else f"p{i}" for i in range(len(tuples))]
    sids = semantic_ids(tuples, SIZES)
    assert write_published(path, ids, sids, form=form) == len(tuples)
    table = read_published(path, SIZES)
    assert list(table.item_ids) == ids
    np.testing.assert_array_equal(table.sids().codes, sids.codes)
    np.testing.assert_array_equal(table.sids().lengths, sids.lengths)
    assert table.codebook_sizes == SIZES


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (["<a_1>", "<b_12>"], ["<a_3>", "<b_0>", "<c_2>"], ("a", "b", "c")),
        ("<a_1><b_12>", "<a_3> <b_0> <c_2>", ("a", "b", "c")),
        ("<|sid_begin|><s_a_1><s_b_12><|sid_end|>", "<s_a_3><s_b_0><s_c_2>", ("s_a", "s_b", "s_c")),
        (
            ["<s1_1>", "<s2_12>", "<s_end>"],
            ["<s1_3>", "<s2_0>", "<s3_2>", "<s_end>"],
            ("s1", "s2", "s3"),
        ),
        (["a_1", "b_12"], ["a_3", "b_0", "c_2"], ("a", "b", "c")),
        ([1, 12], [3, 0, 2], ("", "", "")),
        ([1, 12, -1], [3, 0, 2], ("", "", "")),
        (["1", "12"], ["3", "0", "2"], ("", "", "")),
        ("1-12", "3, 0, 2", ("", "", "")),
    ],
)
def test_every_form_reads_as_the_same_codes(tmp_path, first, second, names):
    (tmp_path / "ids.json").write_text(json.dumps({"x": first, "7": second}))
    table = read_published(tmp_path / "ids.json")
    assert table.item_ids == ("x", "7")
    assert table.codes.tolist() == [[1, 12, -1], [3, 0, 2]]
    assert (table.codebook_sizes, table.names) == ((4, 13, 3), names)
    assert not table.sids().fixed_length


def test_rows_with_named_columns_and_our_own_table(tmp_path):
    (tmp_path / "rows.json").write_text('[{"item_id": 5, "semantic_id": [1, 2], "title": "t"}]')
    assert read_published(tmp_path / "rows.json").item_ids == ("5",)
    pq.write_table(pa.table({"item_id": [5, 6], "sids": [[1, 2], [0, 1]]}), tmp_path / "p.parquet")
    assert read_published(tmp_path / "p.parquet").item_ids == ("5", "6")
    sids = semantic_ids([(1, 2, 1), (0, 0)], SIZES)
    write_published(tmp_path / "sids.parquet", ["a", "b"], sids, form="codes")
    table = read_published(tmp_path / "sids.parquet")
    assert table.codebook_sizes == SIZES  # from the metadata: the largest codes seen are smaller
    assert load_sids(tmp_path / "sids.parquet", ["b", "a"]).tuple_of(1) == (1, 2, 1)


def test_level_names_are_kept_on_the_way_out(tmp_path):
    sids = semantic_ids([(1, 2), (), (0, 1, 1)], SIZES)
    assert (
        write_published(tmp_path / "i.json", ["a", "-", "b"], sids, names=["s_a", "s_b", "s_c"])
        == 2
    )
    assert json.loads((tmp_path / "i.json").read_text()) == {"a": ["<s_a_1>", "<s_b_2>"],
                                                             "b": ["<s_a_0>", "<s_b_1>",
                                                             "<s_c_1>"]}  # fmt: skip
    for names in (["a", "b"], ["a", "a", "b"], ["a", "b", "c d"]):
        with pytest.raises(ValueError, match="3 different words"):
            write_published(tmp_path / "i.json", ["a", "-", "b"], sids, names=names)
    with pytest.raises(ValueError, match=r"want \.json"):
        write_published(tmp_path / "i.txt", ["a", "-", "b"], sids)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": ["<a_1>", "<b_x>"]}', "item 'a': token '<b_x>' is not parseable"),
        ('{"a": ["<a_1>", 1.5]}', "item 'a': token 1.5 is not parseable"),
        ('{"a": [true]}', "token True is not parseable"),
        ('{"a": [-2]}', "token -2 is not parseable"),
        ('{"a": [1, -1, 2]}', "token 2 follows the padding"),
        ('{"a": "<a_1> and <b_2>"}', "'and' in"),
        (
            '{"a": ["<a_1>", "<b_2>"], "b": ["<b_2>", "<a_1>"]}',
            "item 'b': token 1 is of level 'b'.*others have 'a'",
        ),
        (
            '{"a": ["<a_1>", "<b_2>"], "b": ["<a_2>", "<c_1>"], "c": ["<a_2>", "<b_1>"]}',
            "item 'b': token 2 .* 'c'",
        ),
        ('{"a": ["<a_1>", "<a_2>"]}', "item 'a': two levels are called 'a'"),
        ('{"a": []}', "item 'a' has no SID"),
        ('{"a": null}', "item 'a' has the SID None"),
        ('{"a": [1], "a": [2]}', "item 'a' is listed twice"),
        ('{"a": [99999999999]}', "is no code"),
        ("{}", "lists no items"),
        ("[3]", "entry 1 has no item_id"),
        ("[", "the file is not valid JSON"),
    ],
)
def test_errors_name_item_and_token(tmp_path, text, says):
    (tmp_path / "ids.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_published(tmp_path / "ids.json")


def test_codes_and_depth_are_held_against_stated_sizes(tmp_path):
    path = tmp_path / "ids.json"
    path.write_text('{"a": ["<a_1>"], "b": ["<a_4>", "<b_0>"]}')
    with pytest.raises(
        ValueError, match=r"item 'b' has code 4 at level 1, which has 4 codes \(0 to 3\)"
    ):
        read_published(path, (4, 4))
    with pytest.raises(
        ValueError, match=r"item 'b' has 2 tokens, sid.codebook_sizes names 1 levels"
    ):
        read_published(path, (8,))
    assert read_published(path, (8, 4, 2)).codes.tolist() == [[1, -1, -1], [4, 0, -1]]


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_published(tmp_path / "no.json")
    pq.write_table(pa.table({"item": ["a"], "code": [[1]]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="has columns item, code; want item_id and one of"):
        read_published(tmp_path / "p.parquet")
    (tmp_path / "x.pkl").write_text("")
    with pytest.raises(ValueError, match=r"is \.json, \.jsonl, \.csv"):
        read_published(tmp_path / "x.pkl")
    (tmp_path / "x.jsonl").write_text('{"item_id": "a", "sid": [1]}\n{')
    with pytest.raises(ValueError, match="line 2 is not valid JSON"):
        read_published(tmp_path / "x.jsonl")
