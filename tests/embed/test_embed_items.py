"""Embedding a catalogue: texts, the cache, and a kill in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sidar.embed import HashingEmbedder, item_texts
from sidar.embed.cache import VectorCache, text_keys
from sidar.embed.items import embed_items
from sidar.fitting.logs import Countdown
from sidar.types import CATALOGUE_SCHEMA, Catalogue

FIELDS = ["title", "category"]


def catalogue(titles: Sequence[str | None]) -> Catalogue:
    rows = [
        {"item_id": str(i), "title": t, "category": ["Home", f"Aisle {i % 3}"]}
        for i, t in enumerate(titles)
    ]
    return Catalogue(pa.Table.from_pylist(rows, schema=CATALOGUE_SCHEMA), "test")


class Counting(HashingEmbedder):
    """Counts the texts it is given, and can be told to fail like a run that is stopped."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(32)
        self.texts: list[str] = []
        self.stop_after = stop_after

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        if self.stop_after is not None and len(self.texts) >= self.stop_after:
            raise KeyboardInterrupt
        self.texts += texts
        return super().encode(texts, batch_size)


def run(items: Catalogue, folder: Path, embedder: HashingEmbedder) -> tuple[np.ndarray, int]:
    cache = VectorCache(folder / "cache", embedder.dim)
    new = embed_items(items, FIELDS, embedder, folder / "items.npy", cache, chunk=10)
    return np.load(folder / "items.npy"), new


def test_a_long_stage_says_every_half_minute_how_far_it_is(tmp_path: Path) -> None:
    said: list[str] = []
    times = iter([0.0, 5.0, 20.0, 36.0, 50.0, 68.0])  # made, 0, 10, 20, 30 and 40 items done
    countdown = Countdown("items embedded", said.append, clock=lambda: next(times))
    items, embedder = catalogue([f"item {n}" for n in range(40)]), HashingEmbedder(32)
    cache = VectorCache(tmp_path / "cache", embedder.dim)
    embed_items(items, FIELDS, embedder, tmp_path / "a.npy", cache, chunk=10, progress=countdown)
    assert said == [
        "items embedded 20 of 40, 0:00:31 left",
        "items embedded 40 of 40, 0:00:00 left",
    ]
    # nothing is left to embed
    embed_items(items, FIELDS, embedder, tmp_path / "b.npy", cache, chunk=10, progress=countdown)


def test_item_texts() -> None:
    rows = [
        {"item_id": "1", "title": "Mug.", "category": ["Home", "Kitchen"], "brand": "Acme"},
        {"item_id": "2", "title": None, "category": None, "brand": " "},
    ]
    items = Catalogue(pa.Table.from_pylist(rows, schema=CATALOGUE_SCHEMA), "test")
    assert item_texts(items, ["title", "category", "brand"]) == ["Mug. Home > Kitchen. Acme", ""]
    with pytest.raises(ValueError, match="'colour' is no column"):
        item_texts(items, ["title", "colour"])


@pytest.mark.parametrize("n", [0, 1, 9, 10, 37])
def test_vectors_are_those_of_the_texts(n: int, tmp_path: Path) -> None:
    items = catalogue([f"thing {i % 20}" for i in range(n)])
    vectors, _ = run(items, tmp_path, HashingEmbedder(32))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(
        vectors, HashingEmbedder(32).encode(item_texts(items, FIELDS)).reshape(n, 32)
    )


def test_only_new_texts_are_embedded(tmp_path: Path) -> None:
    items = catalogue([f"thing {i}" for i in range(37)])
    run(items, tmp_path, Counting())
    again = Counting()
    vectors, new = run(items, tmp_path, again)
    assert (new, again.texts) == (0, [])
    grown = catalogue([*[f"thing {i}" for i in range(37)], "new", "thing 0"])
    vectors, new = run(grown, tmp_path, again)
    assert again.texts == ["new. Home > Aisle 1", "thing 0. Home > Aisle 2"]
    assert new == 2
    np.testing.assert_array_equal(vectors, HashingEmbedder(32).encode(item_texts(grown, FIELDS)))


def test_a_repeated_text_is_embedded_once(tmp_path: Path) -> None:
    embedder = Counting()
    vectors, new = run(catalogue(["same"] * 25), tmp_path, embedder)
    assert new == len(embedder.texts) == 3  # three aisles
    assert len(np.unique(vectors, axis=0)) == 3


def test_a_stopped_run_continues(tmp_path: Path) -> None:
    items = catalogue([f"thing {i}" for i in range(37)])
    first = Counting(stop_after=20)
    with pytest.raises(KeyboardInterrupt):
        run(items, tmp_path, first)
    assert len(first.texts) == 20
    second = Counting()
    vectors, new = run(items, tmp_path, second)
    assert new == 17
    assert sorted(first.texts + second.texts) == sorted(item_texts(items, FIELDS))
    np.testing.assert_array_equal(vectors, HashingEmbedder(32).encode(item_texts(items, FIELDS)))


def test_a_killed_process_leaves_whole_shards(tmp_path: Path) -> None:
    """SIGKILL while shards are written: what is found later verifies, and the result is right."""
    program = (
        "import sys; from pathlib import Path; from test_embed_items import catalogue, run, "
        "HashingEmbedder\n"
        "class Loud(HashingEmbedder):\n"
        "    def encode(self, texts, batch_size=32):\n"
        "        print('chunk', flush=True); return super().encode(texts, batch_size)\n"
        "run(catalogue([f'thing {i}' for i in range(5000)]), Path(sys.argv[1]), Loud(32))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for _ in range(12):
            assert process.stdout.readline() == "chunk\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "items.npy").exists()
    kept = len(VectorCache(tmp_path / "cache", 32))
    assert 110 <= kept < 5000
    items = catalogue([f"thing {i}" for i in range(5000)])
    vectors, new = run(items, tmp_path, HashingEmbedder(32))
    assert new == 5000 - kept
    np.testing.assert_array_equal(vectors, HashingEmbedder(32).encode(item_texts(items, FIELDS)))


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""]
)
def test_a_damaged_shard_is_embedded_again(damage: object, tmp_path: Path) -> None:
    items = catalogue([f"thing {i}" for i in range(37)])
    want, _ = run(items, tmp_path, HashingEmbedder(32))
    shard = sorted((tmp_path / "cache").iterdir())[0]
    size = len(VectorCache(tmp_path / "cache", 32))
    shard.write_bytes(damage(shard.read_bytes()))
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "cache" / f".{gone.pid}.tmp").write_bytes(b"half a shard")
    vectors, new = run(items, tmp_path, HashingEmbedder(32))
    assert 0 < new < size
    np.testing.assert_array_equal(vectors, want)
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_a_shard_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    VectorCache(tmp_path, 32)
    writing = tmp_path / f".{os.getppid()}.tmp"
    writing.write_bytes(b"half a shard")
    assert len(VectorCache(tmp_path, 32)) == 0
    assert writing.read_bytes() == b"half a shard"


def test_keys_differ_and_survive_odd_text() -> None:
    texts = ["", " ", "a", "A", "ä", "a\u0308", "\ud800", *map(str, range(1000))]
    assert len(set(text_keys(texts).tolist())) == len(texts)
    assert len(text_keys([])) == 0
