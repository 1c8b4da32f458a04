"""The SID table on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_index import semantic_ids

from sidar.sid import load_sids, save_sids
from sidar.sid.table import table_version

SIZES = (4, 3, 2)
SID = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1))


@given(
    st.lists(st.tuples(SID, st.integers(0, 3)).map(lambda t: t[0][: t[1]]), max_size=12),
    st.randoms(),
)
@settings(max_examples=40, deadline=None)
def test_any_lengths_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, tuples: list, random: object
) -> None:
    path = tmp_path_factory.mktemp("sids") / "sids.parquet"
    ids = [f"p{i}" for i in range(len(tuples))]
    sids = semantic_ids(tuples, SIZES)
    save_sids(path, ids, sids)
    order = list(range(len(ids)))
    random.shuffle(order)
    loaded = load_sids(path, ["not in the table", *(ids[i] for i in order)] if any(tuples) else ids)
    if any(tuples):
        assert loaded.tuple_of(0) == ()
        assert [loaded.tuple_of(i + 1) for i in range(len(ids))] == [tuples[i] for i in order]
    assert loaded.codebook_sizes == SIZES
    assert pq.read_schema(path).names == ["item_id", "codes"]


def test_method_and_version_are_kept(tmp_path: Path) -> None:
    sids = semantic_ids([(1, 2, 1), (0, 0)], SIZES)
    save_sids(tmp_path / "s.parquet", np.array(["a", "b"], object), sids)
    loaded = load_sids(tmp_path / "s.parquet", ["a", "b"])
    assert loaded.version == table_version(sids) == table_version(loaded)
    assert table_version(semantic_ids([(1, 2, 1), (0, 1)], SIZES)) != loaded.version
    assert loaded.method == "unknown"


def test_errors_name_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    with pytest.raises(ValueError, match="sidar sid"):
        load_sids(path, ["a"])
    pq.write_table(pa.table({"item_id": ["a"], "codes": [[1]]}), path)
    with pytest.raises(ValueError, match="not an SID table"):
        load_sids(path, ["a"])
    sids = semantic_ids([(1,), (2,)], SIZES)
    with pytest.raises(ValueError, match="3 item ids do not fit"):
        save_sids(path, ["a", "b", "c"], sids)
    save_sids(path, ["a", "a"], sids)
    with pytest.raises(ValueError, match="'a' is listed twice"):
        load_sids(path, ["a"])
    save_sids(path, ["a", "b"], sids)
    with pytest.raises(ValueError, match="another catalogue"):
        load_sids(path, ["c", "d"])
    damaged = pq.read_table(path).set_column(1, "codes", pa.array([[9], [1]], pa.list_(pa.int32())))
    pq.write_table(damaged, path)
    with pytest.raises(ValueError, match="leave codebooks"):
        load_sids(path, ["a", "b"])
    pq.write_table(
        damaged.set_column(1, "codes", pa.array([[1] * 4, [1]], pa.list_(pa.int32()))), path
    )
    with pytest.raises(ValueError, match="has 4 codes"):
        load_sids(path, ["a", "b"])
