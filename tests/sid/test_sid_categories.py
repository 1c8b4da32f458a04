"""Category-guided first codes, on their own and in RQ-KMeans."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shops import shop

from sidar.config import SidConfig
from sidar.sid import RqKmeans, Sarq, load_tokenizer
from sidar.sid.categories import SHARE, CategoryCodes, given_first, load_categories, save_categories
from sidar.sid.lifecycle.ledger import write_up
from sidar.sid.lifecycle.refresh import refresh
from sidar.sid.lifecycle.versions import Version, compare_versions
from sidar.sid.stage import fit_catalogue
from sidar.types import SidInputs

PATHS = [["a", "x", "1"], ["a", "x", "2"], ["a", "y"], ["b", "z"], ["b"], [], ["a", "x", "1"]]


def test_the_deepest_depth_that_fits() -> None:
    # .85 · 2 = 1: the larger of two departments
    assert CategoryCodes.fit(PATHS, 2).paths == [("a",)]
    assert CategoryCodes.fit(PATHS, 3).depth == 1
    # a/x, a/y, b, b/z: a path that ends early is a category of its own
    four = CategoryCodes.fit(PATHS, 5)
    assert (four.depth, len(four), four.spare) == (2, 4, 1)
    deepest = CategoryCodes.fit(PATHS, 60)
    assert (deepest.depth, len(deepest)) == (3, 5)
    assert deepest.codes_of(PATHS, 7).tolist() == [0, 1, 2, 4, 3, -1, 0]
    assert deepest.codes_of([["a", "x"], ["c"], ["a", "x", "1", "deeper"]], 3).tolist() == [
        -1,
        -1,
        0,
    ]
    assert deepest.codes_of(None, 2).tolist() == [-1, -1]


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=3), min_size=1, max_size=40).filter(any),
    st.integers(2, 30),
)
@settings(max_examples=60, deadline=None)
def test_codes_fit_the_level_and_say_the_category(paths: list[list[str]], size: int) -> None:
    codes = CategoryCodes.fit(paths, size)
    assert 1 <= len(codes) <= max(1, int(SHARE * size))
    assert len(codes) <= codes.used <= size
    given_codes = codes.codes_of(paths, len(paths))
    unknown = (given_codes < 0).sum()
    assert (codes.spare > 0) == (unknown > 0 and size > len(codes))
    for path, code in zip(paths, given_codes, strict=True):
        assert code == -1 or codes.paths[code] == tuple(path[: codes.depth])
    counts = Counter(tuple(p[: codes.depth]) for p in paths if p)
    if len(counts) > len(codes):  # too many even at the top: the largest have the codes
        assert codes.depth == 1
        assert min(counts[p] for p in codes.paths) >= max(
            n for p, n in counts.items() if p not in codes.paths
        )


def test_notes_say_what_is_missing() -> None:
    codes = CategoryCodes.fit(PATHS, 2)
    one, none, lost = codes.notes(PATHS)
    assert "all items with a category have the same one (a)" in one
    assert "1 items have no category" in none
    assert "2 items are of categories beyond 85%" in lost
    assert CategoryCodes.fit([["a"], ["b"]], 8).notes([["a"], ["b"]]) == []


def test_categories_that_are_not_there(tmp_path: Path) -> None:
    for missing in (None, [], [[], [], None]):
        with pytest.raises(
            ValueError, match="no item has one; fill the catalogue's column `category`"
        ):
            CategoryCodes.fit(missing, 8)
    with pytest.raises(ValueError, match="one code cannot tell"):
        CategoryCodes.fit([["a"]], 1)
    with pytest.raises(ValueError, match="2 categories do not fit 3 vectors"):
        CategoryCodes.fit([["a"]], 8).codes_of([["a"], ["b"]], 3)
    codes = CategoryCodes.fit(PATHS, 9)
    save_categories(tmp_path, codes)
    again = load_categories(tmp_path)
    assert (again.paths, again.depth, again.spare) == (codes.paths, codes.depth, codes.spare)


# RQ-KMeans


def test_rqkmeans_gives_each_known_category_its_code(tmp_path: Path) -> None:
    made = shop(500)
    tokenizer = RqKmeans((16, 8, 4), category_first=True).fit(made.inputs)
    sids = tokenizer.encode(made.inputs)
    want = tokenizer.categories_.codes_of(made.inputs.categories, 500)
    known = want >= 0
    assert tokenizer.categories_.depth == 2
    assert 0 < (~known).sum() < 100
    np.testing.assert_array_equal(sids.codes[known, 0], want[known])
    assert (sids.codes[:, 0] < tokenizer.categories_.used).all()
    x = made.inputs.vectors
    books = tokenizer.codebooks_
    np.testing.assert_allclose(books[0][0], x[want == 0].mean(0), atol=1e-5)
    for row in np.flatnonzero(~known):  # the nearest of the codes that occur
        distance = np.square(x[row] - books[0][: tokenizer.categories_.used]).sum(1)
        assert distance[sids.codes[row, 0]] <= distance.min() + 1e-6
    rest = x - books[0][sids.codes[:, 0]]
    assert (np.square(rest[:, None] - books[1]).sum(2).argmin(1) == sids.codes[:, 1]).mean() > 0.999
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    np.testing.assert_array_equal(loaded.encode(made.inputs).codes, sids.codes)
    without = SidInputs(x[:5])
    assert loaded.encode(without).codes.shape == (5, 3)  # no categories given: the nearest


def test_rqkmeans_without_it_is_what_it_was(tmp_path: Path) -> None:
    made = shop(300)
    plain = RqKmeans((8, 4)).fit(made.inputs)
    plain.save(tmp_path)
    assert "category_first" not in (tmp_path / "tokenizer.json").read_text()
    assert not (tmp_path / "categories.json").exists()
    assert plain.categories_ is None
    with pytest.raises(ValueError, match="one level cannot be guided by categories and balanced"):
        RqKmeans((8,), category_first=True, balance_last=True)


def test_a_category_with_more_items_than_codes_and_one_for_all() -> None:
    made = shop(300, unknown=0.0)
    inputs = SidInputs(made.inputs.vectors, [["only"]] * 300)
    config = SidConfig(codebook_sizes=[4, 3, 2], category_first=True)
    tokenizer, sids, _ = fit_catalogue(config, inputs, 0)
    assert set(sids.codes[:, 0]) == {0}
    assert "have the same one (only)" in tokenizer.notes_[0]
    balanced = RqKmeans((4, 3, 2), category_first=True, balance_last=True).fit(inputs)
    assert set(balanced.encode_catalogue(inputs).codes[:, 0]) == {0}
    assert torch.is_tensor(tokenizer._first(inputs))


def test_a_daily_refresh_follows_a_change_of_category() -> None:
    """The text, and so the vector, is what it was: without its category the item would keep its
    SID.
    """
    made = shop(200, unknown=0.0)
    ids = [f"p{i}" for i in range(200)]
    inputs = replace(made.inputs, item_ids=ids)
    tokenizer = RqKmeans((16, 8, 4), category_first=True).fit(inputs)
    sids = tokenizer.encode(inputs)
    cause, fitted = np.full(200, "fit", object), np.ones(200, bool)
    ledger = write_up(inputs, tokenizer, sids, fitted, cause)
    paths = list(inputs.categories)
    other = next(path for path in paths if path != paths[7])
    paths[7] = other
    today = refresh(tokenizer, sids, ledger, replace(inputs, categories=paths), margin=1e9)
    assert (
        today.sids.codes[7, 0]
        == tokenizer.categories_.paths.index(tuple(other))
        != sids.codes[7, 0]
    )
    assert today.cause[7] == "category"
    assert today.counts == {"category": 1, "kept": 199}
    after = write_up(
        replace(inputs, categories=paths), tokenizer, today.sids, today.fitted, today.cause
    )
    diff = compare_versions(
        Version("A", ids, sids, ledger, "k"), Version("B", ids, today.sids, after, "k")
    )
    assert diff.causes == {"category": 1}
    cut = Sarq(RqKmeans((16, 8, 4), category_first=True), 2, lengths="fixed").fit(inputs)
    moved = refresh(cut, cut.encode(inputs), ledger, replace(inputs, categories=paths), margin=1e9)
    assert moved.cause[7] == "category"
    unmoved = np.arange(200) != 7
    np.testing.assert_array_equal(today.sids.codes[unmoved], sids.codes[unmoved])
    assert given_first(Sarq(tokenizer, 3), inputs).tolist() == sids.codes[:, 0].tolist()
    assert given_first(RqKmeans((4,)), inputs) is None
