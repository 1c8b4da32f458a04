"""The files of the answer: the memory survives kills and tells damage, keys are found and made,
BM25 comes back.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidar.answer.key import FILE as KEY_FILE
from sidar.answer.key import VARIABLE, bundle_key, carry_key, find_key, find_or_make_key
from sidar.answer.memory import FILE, Memory, MemoryFacts, key_check, query_key
from sidar.baselines import Bm25
from sidar.baselines.bm25 import Bm25Params
from sidar.data import toy
from sidar.types import Catalogue

SECRET = b"secret"
LOOP = """
import sys
from sidar.answer.memory import Memory
states = [Memory.load(folder) for folder in sys.argv[1:3]]
print("ready", flush=True)
while True:
    for state in states:
        state.save(sys.argv[3])
"""


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def memory(n=4, seed=0, **facts):
    rng = np.random.default_rng(seed)
    table = pa.table(
        {
            "key": rng.integers(0, 2**63, n).astype(np.uint64),
            "row": rng.integers(0, 64, n),
            "day": rng.integers(0, 9, n),
            "weight": rng.integers(1, 5, n).astype(np.float32),
            "users": np.ones(n, np.int32),
        }
    )
    return Memory.of(
        table, MemoryFacts(**{"lineage": "l", "last_day": 8, "key": key_check(SECRET), **facts})
    )


def test_a_saved_memory_comes_back_and_equal_entries_are_equal_bytes(tmp_path):
    mine = memory(100)
    mine.save(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    again = Memory.load(tmp_path)
    assert again.facts == mine.facts
    for name in ("keys", "rows", "days", "weights", "users"):
        np.testing.assert_array_equal(getattr(again, name), getattr(mine, name))
    again.with_days(again).save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path):
    states = [memory(30_000, seed, last_day=8 + seed) for seed in (0, 1)]
    for name, state in zip("ab", states, strict=True):
        (tmp_path / name).mkdir()
        state.save(tmp_path / name)
    target = tmp_path / "target"
    target.mkdir()
    states[0].save(target)
    wanted = {(tmp_path / name / FILE).read_bytes() for name in "ab"}
    rng = random.Random(0)
    for _ in range(10):
        command = [
            sys.executable,
            "-c",
            LOOP,
            str(tmp_path / "a"),
            str(tmp_path / "b"),
            str(target),
        ]
        saving = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert saving.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.1))
        os.kill(saving.pid, signal.SIGKILL)
        saving.wait()
        saving.stdout.close()
        assert len(Memory.load(target)) == 30_000
        assert (target / FILE).read_bytes() in wanted


def test_a_damaged_file_is_refused_in_words(tmp_path):
    mine = memory(2000)
    mine.save(tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        b"PAR1 no parquet at all PAR1",
        whole[:-9] + b"\0" * 9,
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"memory\.parquet is damaged"):
            Memory.load(tmp_path)
    rng = random.Random(1)
    for _ in range(30):  # one byte anywhere: another value is never read without a word
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with contextlib.suppress(ValueError):
            assert Memory.load(tmp_path)._digest() == mine._digest()
    path.write_bytes(whole)
    table = pq.read_table(path)
    weights = table.column("weight").to_numpy().copy()
    weights[7] += 1
    pq.write_table(
        table.set_column(3, "weight", pa.array(weights)).replace_schema_metadata(
            table.schema.metadata
        ),
        path,
    )
    with pytest.raises(ValueError, match="its entries are not those that were written"):
        Memory.load(tmp_path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(ValueError, match="format None"):
        Memory.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        Memory.load(tmp_path)


def test_a_memory_of_another_key_catalogue_or_normaliser_is_refused():
    assert memory().check(SECRET, "l", "here")
    with pytest.raises(ValueError, match=r"here was made with another key.*SIDAR_MEMORY_KEY"):
        memory().check(b"other", "l", "here")
    with pytest.raises(
        ValueError, match="here counts rows of catalogue lineage l, this catalogue is m"
    ):
        memory().check(SECRET, "m", "here")
    with pytest.raises(ValueError, match="here was made with version 0 of the query normaliser"):
        memory(normaliser=0).check(SECRET, "l", "here")


def test_an_empty_key_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="key is empty"):
        query_key("red mug", b"")
    (tmp_path / KEY_FILE).write_text(" \n")
    with pytest.raises(ValueError, match=r"memory\.key is empty"):
        find_key([tmp_path / KEY_FILE])
    with pytest.raises(ValueError, match=r"memory\.key is empty"):
        find_or_make_key(tmp_path / KEY_FILE)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(ValueError, match="SIDAR_MEMORY_KEY is empty"):
        find_key([])


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "run" / KEY_FILE
    old = os.umask(0)
    try:
        made = find_or_make_key(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(made) == 64
    assert find_or_make_key(path) == made
    assert find_or_make_key(tmp_path / "other" / KEY_FILE) != made


def test_the_environment_goes_before_files_and_the_first_file_before_others(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).write_text(f"key of {name}\n")
    assert find_key([]) is None
    assert find_key([tmp_path / "none", tmp_path / "b", tmp_path / "a"]) == b"key of b"
    monkeypatch.setenv(VARIABLE, "key of the environment")
    assert find_key([tmp_path / "a"]) == b"key of the environment"
    assert find_or_make_key(tmp_path / "c") == b"key of the environment"
    assert not (tmp_path / "c").exists()


def test_the_key_of_a_bundle_is_given_named_or_beside_it(tmp_path, monkeypatch):
    bundle = tmp_path / "run" / "bundle"
    bundle.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"set SIDAR_MEMORY_KEY, or put memory\.key of the run"):
        bundle_key(bundle)
    (tmp_path / "run" / KEY_FILE).write_text("beside")
    (tmp_path / "named").write_text("named")
    assert bundle_key(bundle) == b"beside"
    assert bundle_key(bundle, key_file=str(tmp_path / "named")) == b"named"
    assert bundle_key(bundle, b"given", str(tmp_path / "named")) == b"given"
    carry_key(bundle, tmp_path / "next")
    assert (tmp_path / "next" / KEY_FILE).read_text() == "beside"
    assert (tmp_path / "next" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / "run" / KEY_FILE).write_text("another")
    carry_key(bundle, tmp_path / "next")  # a key that is there stays
    assert (tmp_path / "next" / KEY_FILE).read_text() == "beside"
    monkeypatch.setenv(VARIABLE, "environment")
    assert bundle_key(bundle, key_file=str(tmp_path / "named")) == b"environment"


def retired(catalogue, rows):
    alive = catalogue.alive.copy()
    alive[list(rows)] = False
    place = catalogue.table.schema.get_field_index("alive")
    return Catalogue(catalogue.table.set_column(place, "alive", pa.array(alive)), catalogue.lineage)


QUERIES = ["bath towel", "steel water bottle", "no such word", "towel towel red", ""]


def test_bm25_comes_back_from_its_files_and_leaves_retired_items_out(tmp_path):
    shop = retired(toy.catalogue(), [3])
    made = Bm25(shop, Bm25Params({"title": 3, "category": 1, "brand": 0, "text": 1}, 0.9, 0.4))
    made.save(tmp_path)
    again = Bm25.load(tmp_path)
    assert again.params == made.params == Bm25.read_params(tmp_path)
    np.testing.assert_array_equal(again.scores(QUERIES), made.scores(QUERIES))

    best = [int(row) for row in made.search(["bath towel"], 3).rows[0]]
    alive = retired(shop, best[:2]).alive
    left = Bm25.load(tmp_path, alive)
    assert not set(best[:2]) & set(left.search(QUERIES).rows.ravel().tolist())
    kept = alive[made.rows]
    np.testing.assert_array_equal(left.scores(QUERIES), made.scores(QUERIES)[:, kept])
    nothing = Bm25.load(tmp_path, np.zeros(64, bool))
    assert (nothing.search(QUERIES).rows == -1).all()
    with pytest.raises(ValueError, match="the BM25 index has row 63, the catalogue only 10 rows"):
        Bm25.load(tmp_path, np.ones(10, bool))
    with pytest.raises(ValueError, match=r"bm25\.json does not exist"):
        Bm25.load(tmp_path / "nowhere")


def test_bm25_follows_a_new_numbering_and_can_be_saved_again(tmp_path):
    made = Bm25(retired(toy.catalogue(), [0, 40]))
    kept = np.arange(64) % 3 > 0
    new = np.where(kept, np.cumsum(kept) - 1, -1)
    made.renumbered(new).save(tmp_path)
    again = Bm25.load(tmp_path)
    stay = kept[made.rows]
    np.testing.assert_array_equal(again.rows, new[made.rows[stay]])
    np.testing.assert_array_equal(again.scores(QUERIES), made.scores(QUERIES)[:, stay])
