"""Vectors on disk by the hash of their text: what a killed run or yesterday's catalogue has paid
for is kept.

A shard is one safetensors file named by the hash of its bytes, written aside and renamed, so a
shard is whole or absent; one that was damaged later does not match its name, is deleted, and its
texts are embedded again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from sidar.artifacts import sha256_file

KEY_BYTES = 16


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """(n,) S16: 128-bit hashes of the texts."""
    digests = b"".join(
        hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
        for t in texts
    )
    return np.frombuffer(digests, f"S{KEY_BYTES}")


class VectorCache:
    """The vectors of one encoder: ``folder`` must be named by its fingerprint and precision."""

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder = Path(folder)
        self.dim = dim
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keys: dict[Path, np.ndarray] = {}
        # named by who writes it; another live process may share the folder
        for leftover in self.folder.glob(".*.tmp"):
            if not _lives(leftover.name[1:-4]):
                leftover.unlink(missing_ok=True)
        for path in sorted(self.folder.glob("*.safetensors")):
            if sha256_file(path) != path.stem:
                path.unlink(missing_ok=True)
            else:
                self._keys[path] = load_file(path)["keys"].reshape(-1).view(f"S{KEY_BYTES}")

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._keys.values())

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """(n,) bool: no shard has the vector of this key."""
        found = np.zeros(len(keys), bool)
        order = np.argsort(keys)
        ranked = keys[order]
        for stored in self._keys.values():
            found[order[_matches(ranked, stored)[0]]] = True
        return ~found

    def put(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Add one shard: vectors (n, D) of keys (n,)."""
        tmp = self.folder / f".{os.getpid()}.tmp"
        save_file(
            {
                "keys": keys.view(np.uint8).reshape(-1, KEY_BYTES),
                "vectors": np.ascontiguousarray(vectors, np.float32),
            },
            tmp,
        )
        with tmp.open("rb") as file:
            os.fsync(file.fileno())
        path = self.folder / f"{sha256_file(tmp)}.safetensors"
        tmp.rename(path)
        self._keys[path] = keys

    def fill(self, keys: np.ndarray, out: np.ndarray) -> None:
        """Write the vectors of keys (n,) into ``out`` (n, D), shard by shard; keys that are missing
        stay untouched.
        """
        order = np.argsort(keys)
        ranked = keys[order]
        for path, stored in self._keys.items():
            places, source = _matches(ranked, stored)
            if len(places):
                out[order[places]] = load_file(path)["vectors"][source]


def _lives(pid: str) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _matches(ranked: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the sorted ``ranked`` that have a key of ``stored``, and which: every place of a
    repeated key.
    """
    start = np.searchsorted(ranked, stored, side="left")
    count = np.searchsorted(ranked, stored, side="right") - start
    inner = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(start, count) + inner, np.repeat(np.arange(len(stored)), count)
