"""Two files hold what single cells held, to the last bit."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.raddpo.store import CELLS, KEYS, VALUES, Values, keep, read_cells

SETS = {"day8": [f"r{i}" for i in range(50)], "judged_test": [f"j{i}" for i in range(7)]}


def add(loose, name, *, seed, sets=("day8",), measures=("mrr", "mass"), **more):
    """Write a cell with random values, some of them NaN with a payload, and -0.0."""
    rng = np.random.default_rng(abs(seed or 0) + 100 * len(name))
    tables = []
    for each in sets:
        ids = SETS[each]
        columns = {m: rng.random(len(ids)).astype(np.float32) for m in measures}
        for column in columns.values():
            column[0], column[-1] = np.nan, -0.0
            column[1:2].view(np.int32)[:] = 0x7FC00001  # another NaN
        tables.append(pa.table({"set": [each] * len(ids), "query_id": ids, **columns}))
    pq.write_table(pa.concat_tables(tables), loose / f"{name}.parquet")
    facts = {"version": 1, "cell": name, "system": name.partition(".")[0], "kind": "align"}
    facts |= {"seed": seed, "parent": None, "commit": "ab" * 20, "threads": 1}
    facts |= {"axes": {}, "figures": {"day8.mrr": 0.1 + 0.2, "tiny": 5e-324}, **more}
    (loose / f"{name}.json").write_text(json.dumps(facts))


@pytest.fixture
def folders(tmp_path):
    loose, kept = tmp_path / "loose", tmp_path / "kept"
    loose.mkdir()
    add(loose, "raddpo.s0", seed=0, sets=("day8", "judged_test"))
    add(loose, "raddpo.s1", seed=1, measures=("mrr", "ndcg"), index={"density": 1e-9})
    add(loose, "bm25", seed=None, sets=("judged_test",), measures=("ndcg",), parent="x")
    shutil.copytree(loose, tmp_path / "single")
    return tmp_path / "single", loose, kept


def check(single, kept):
    """Every single cell is read back: facts as JSON says them, values bit by bit."""
    cells, values = read_cells(kept), Values(kept)
    for path in single.glob("*.json"):
        was = json.loads(path.read_text())
        assert json.dumps(cells[path.stem], sort_keys=True) == json.dumps(was, sort_keys=True)
        before, after = pq.read_table(path.with_suffix(".parquet")), values.table(path.stem)
        assert set(before.column_names) == set(after.column_names)
        before, after = (t.sort_by([(n, "ascending") for n in KEYS[1:]]) for t in (before, after))
        for name in KEYS[1:]:
            assert before[name].to_pylist() == after[name].to_pylist()
        for name in set(before.column_names) - {"set", "query_id"}:
            bits = [table[name].to_numpy().view(np.int32) for table in (before, after)]
            assert np.array_equal(*bits), (path.stem, name)
    assert set(cells) == {path.stem for path in single.glob("*.json")}


def test_folded_cells_are_read_back_to_the_last_bit(folders):
    single, loose, kept = folders
    assert sorted(keep(loose, kept)) == ["bm25", "raddpo.s0", "raddpo.s1"]
    assert not list(loose.iterdir())
    assert sorted(path.name for path in kept.iterdir()) == sorted([CELLS, VALUES])
    check(single, kept)
    assert Values(kept).column("bm25", "mrr") is None


def test_later_cells_join_and_replace_those_that_are_kept(folders):
    single, loose, kept = folders
    keep(loose, kept)
    assert keep(loose, kept) == []
    for folder in (loose, single):
        add(folder, "raddpo.s1", seed=3, sets=("judged_test", "day8"), measures=("mrr", "new"))
        add(folder, "dpo.s0", seed=0)
    assert sorted(keep(loose, kept)) == ["dpo.s0", "raddpo.s1"]
    check(single, kept)


def test_a_cell_without_values_stays_in_the_work_folder(folders):
    _, loose, kept = folders
    (loose / "bm25.parquet").unlink()
    assert sorted(keep(loose, kept)) == ["raddpo.s0", "raddpo.s1"]
    assert (loose / "bm25.json").is_file()


def test_nothing_kept_is_nothing(tmp_path):
    assert read_cells(tmp_path) == {}
    assert Values(tmp_path).rows == {}
    assert Values(tmp_path).column("raddpo.s0", "mrr") is None
