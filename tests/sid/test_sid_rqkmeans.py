"""RQ-KMeans behind the tokenizer interface, balancing, and the automatic sizes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import reference_sid
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.config import SidConfig
from sidar.sid import RqKmeans, auto_codebook_sizes, load_tokenizer
from sidar.sid.codebooks.balance import balanced_codes
from sidar.sid.stage import fit_catalogue
from sidar.sid.tokenizer import tokenizer_class
from sidar.types import SidInputs


def shop(n: int, seed: int = 0, dim: int = 24) -> np.ndarray:
    """(n, dim) unit vectors around a dozen topics."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, dim))[rng.integers(12, size=n)] + 0.5 * rng.standard_normal(
        (n, dim)
    )
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_codes_are_those_of_the_slow_twin() -> None:
    fitted = RqKmeans((16, 8, 4), seed=1).fit(SidInputs(shop(700)))
    new = shop(200, seed=9)
    codes = fitted.encode(SidInputs(new)).codes  # (200, 3) int32
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, reference_sid.encode(new, fitted.codebooks_))


def test_each_level_lowers_the_error() -> None:
    x = shop(700)
    fitted = RqKmeans((16, 8, 4)).fit(SidInputs(x))
    codes = fitted.encode(SidInputs(x)).codes
    residual, errors = x, [np.square(x).sum(1).mean()]
    for level, book in enumerate(fitted.codebooks_):
        residual = residual - book[codes[:, level]]
        errors.append(np.square(residual).sum(1).mean())
    assert errors == sorted(errors, reverse=True)


def test_precision_changes_no_code() -> None:
    x = shop(700)
    fitted = RqKmeans((16, 8, 4), precision="fp32").fit(SidInputs(x))
    high = fitted.encode(SidInputs(x)).codes
    fitted.precision = "bf16"
    np.testing.assert_array_equal(fitted.encode(SidInputs(x)).codes, high)


def test_fitting_is_deterministic_and_leaves_its_input_alone() -> None:
    x = shop(300)
    before = x.copy()
    one, two = (RqKmeans((8, 4), seed=5).fit(SidInputs(x)) for _ in range(2))
    for a, b in zip(one.codebooks_, two.codebooks_, strict=True):
        np.testing.assert_array_equal(a, b)
    one.encode(SidInputs(x))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("balance", [False, True])
def test_saved_and_loaded(balance: bool, tmp_path: Path) -> None:
    x = shop(300)
    fitted = RqKmeans((8, 4, 2), seed=5, balance_last=balance, iterations=7).fit(SidInputs(x))
    fitted.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.params() == fitted.params()
    want = fitted.encode_catalogue(SidInputs(x))
    got = loaded.encode_catalogue(SidInputs(x))
    np.testing.assert_array_equal(got.codes, want.codes)
    assert got.method == "rqkmeans"
    assert got.codebook_sizes == (8, 4, 2)


@pytest.mark.parametrize(
    "x",
    [
        np.ones((1, 5)),
        np.ones((9, 5)),
        np.zeros((3, 5)),
        np.eye(5),
        np.repeat(np.eye(5), 3, axis=0),
    ],
)
@pytest.mark.parametrize("balance", [False, True])
def test_fewer_distinct_vectors_than_codes(x: np.ndarray, balance: bool) -> None:
    inputs = SidInputs(x.astype(np.float32))
    fitted = RqKmeans((16, 8, 4), balance_last=balance).fit(inputs)
    sids = fitted.encode(inputs)
    assert [len(book) for book in fitted.codebooks_] == [16, 8, 4]
    assert len(np.unique(sids.codes, axis=0)) == len(np.unique(x, axis=0))
    assert (sids.lengths == 3).all()
    assert np.isfinite(np.concatenate(fitted.codebooks_)).all()
    together = len(np.unique(fitted.encode_catalogue(inputs).codes, axis=0))
    _, copies = np.unique(x, axis=0, return_counts=True)
    # balancing parts even identical vectors, ⌈m/4⌉ of a parent's m to a code
    rooms = -(-copies // 4)
    assert together == ((-(-copies // rooms)).sum() if balance else len(copies))


def test_errors_name_row_and_next_step() -> None:
    x = shop(20)
    fitted = RqKmeans((4, 2)).fit(SidInputs(x))
    bad = x.copy()
    bad[7, 3] = np.nan
    for call in (fitted.encode, RqKmeans((4, 2)).fit):
        with pytest.raises(ValueError, match="row 7 is not finite"):
            call(SidInputs(bad))
        huge = np.where(np.isnan(bad), np.float32(-1e25), bad)  # finite, but its square is not
        with pytest.raises(
            ValueError, match=r"item 'p7', row 7 has a component of 1e\+25, beyond 1e\+12"
        ):
            call(SidInputs(huge, item_ids=[f"p{i}" for i in range(20)]))
    with pytest.raises(ValueError, match="have 9 dimensions, the codebooks 24"):
        fitted.encode(SidInputs(x[:, :9]))
    with pytest.raises(ValueError, match="call fit first"):
        RqKmeans((4, 2)).encode(SidInputs(x))
    with pytest.raises(ValueError, match="catalogue is empty"):
        RqKmeans((4, 2)).fit(SidInputs(x[:0]))
    with pytest.raises(ValueError, match="must be positive"):
        RqKmeans((4, 0))
    with pytest.raises(ValueError, match=r"sid\.method 'magic' is not one of .*rqkmeans.*plugins"):
        tokenizer_class("magic")
    assert len(fitted.encode(SidInputs(x[:0]))) == 0


def test_no_tokenizer_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sidar sid"):
        load_tokenizer(tmp_path)


# Balancing the last level


@given(
    n=st.integers(1, 40), k=st.integers(1, 6), groups=st.integers(1, 4), seed=st.integers(0, 999)
)
@settings(max_examples=60, deadline=None)
def test_balance_is_even_and_no_pair_would_rather_swap(
    n: int, k: int, groups: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    points, centroids = (
        rng.standard_normal((n, 3)).astype(np.float32),
        rng.standard_normal((k, 3)).astype(np.float32),
    )
    parents = rng.integers(0, groups, (n, 2))
    codes = balanced_codes(torch.from_numpy(points), torch.from_numpy(centroids), parents)
    distance = torch.cdist(torch.from_numpy(points), torch.from_numpy(centroids)).numpy()
    for parent in {tuple(p) for p in parents.tolist()}:
        members = np.flatnonzero((parents == parent).all(1))
        room = -(-len(members) // k)
        count = Counter(codes[members].tolist())
        assert max(count.values()) <= room
        for i in members:
            # codes that i would rather have
            for code in np.flatnonzero(distance[i] < distance[i, codes[i]]):
                held = [distance[j, code] for j in members if codes[j] == code]
                assert len(held) == room
                assert max(held) <= distance[i, code]


def test_balance_in_blocks_equals_balance_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points, centroids = torch.randn(200, 4), torch.randn(8, 4)
    parents = rng.integers(0, 30, (200, 1))
    whole = balanced_codes(points, centroids, parents)
    monkeypatch.setattr("sidar.sid.codebooks.balance._BLOCK", 40)
    np.testing.assert_array_equal(balanced_codes(points, centroids, parents), whole)


def test_balanced_last_level_spreads_the_items_of_a_parent() -> None:
    x = shop(600)
    plain, even = (RqKmeans((8, 4, 16), balance_last=b).fit(SidInputs(x)) for b in (False, True))
    largest = []
    for tokenizer in (plain, even):
        codes = tokenizer.encode_catalogue(SidInputs(x)).codes
        parents, inverse = np.unique(codes[:, :2], axis=0, return_inverse=True)
        room = -(-np.bincount(inverse.reshape(-1), minlength=len(parents)) // 16)
        in_parent = np.array(
            [np.bincount(codes[inverse.reshape(-1) == p, 2]).max() for p in range(len(parents))]
        )
        largest.append((in_parent > room).sum())
    assert largest[0] > 0
    assert largest[1] == 0
    for level in (0, 1):  # the levels above are untouched
        np.testing.assert_array_equal(plain.codebooks_[level], even.codebooks_[level])


# Sizes


def test_sizes_of_the_papers_and_of_the_sample() -> None:
    assert auto_codebook_sizes(170_000_000) == (8192, 4096, 2048)
    assert auto_codebook_sizes(10**8) == (8192, 4096, 2048)
    assert auto_codebook_sizes(6764) == (512, 256, 128)
    assert auto_codebook_sizes(64) == (16, 8, 4)
    assert auto_codebook_sizes(2) == auto_codebook_sizes(1) == (2, 2, 2)


@given(n=st.integers(1, 10**9), levels=st.integers(1, 8), target=st.floats(1.01, 5))
def test_sizes_halve_and_grow_with_the_catalogue(n: int, levels: int, target: float) -> None:
    sizes = auto_codebook_sizes(n, levels, target)
    assert len(sizes) == levels
    assert all(b == max(2, a // 2) for a, b in pairwise(sizes))
    assert sizes[0] <= max(2, n // 4)
    assert auto_codebook_sizes(2 * n, levels, target)[0] >= sizes[0]
    assert auto_codebook_sizes(n, levels, target + 0.5)[0] <= sizes[0]


def test_sizes_need_items() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        auto_codebook_sizes(0)


def test_sizes_are_adjusted_to_the_data() -> None:
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 1, 4000)  # one dimension: three levels resolve it much too well
    arc = np.stack([np.cos(turn), np.sin(turn)], 1)
    _, _, tried = fit_catalogue(SidConfig(items_per_sid=2.0), SidInputs(arc.astype(np.float32)), 0)
    first, *others = tried
    assert others
    assert int(first.split("/")[0]) > int(others[-1].split("/")[0])
    x = SidInputs(rng.standard_normal((500, 8)).astype(np.float32))
    _, sids, tried = fit_catalogue(SidConfig(codebook_sizes=[4, 4, 4]), x, 0)
    assert list(tried) == ["4/4/4"]  # the user's sizes are the user's
    assert sids.codebook_sizes == (4, 4, 4)
