"""Frozen codebooks meet a newer catalogue: who keeps an SID, who gets one, and what the ledger says
of it.
"""

import numpy as np
import pytest

from sidar.config import SidConfig
from sidar.sid import RqKmeans
from sidar.sid.lifecycle.ledger import Ledger, squared_errors, write_up
from sidar.sid.lifecycle.reference import (
    experienced,
    load_reference,
    make_reference,
    save_reference,
    shared,
)
from sidar.sid.lifecycle.refresh import refresh, take
from sidar.types import SemanticIds, SidInputs

IDS = [f"p{i}" for i in range(80)]


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    x = (
        rng.normal(size=(10, 16))[rng.integers(10, size=80)] + 0.3 * rng.normal(size=(80, 16))
    ).astype(np.float32)
    tokenizer = RqKmeans((8, 4), seed=0).fit(SidInputs(x[:60]))
    sids = tokenizer.encode(SidInputs(x[:60]))
    inputs = SidInputs(x[:60], item_ids=IDS[:60])
    ledger = write_up(inputs, tokenizer, sids, np.ones(60, bool), np.full(60, "fit", object))
    return x, tokenizer, sids, ledger


def padded(sids, n):
    codes = np.full((n, sids.n_levels), -1, np.int32)
    codes[: len(sids)] = sids.codes
    return SemanticIds(
        codes, np.pad(sids.lengths, (0, n - len(sids))), sids.codebook_sizes, sids.method
    )


def test_old_items_keep_their_codes_and_new_ones_get_the_nearest(world):
    x, tokenizer, sids, ledger = world
    found = refresh(tokenizer, padded(sids, 80), ledger, SidInputs(x, item_ids=IDS), margin=0.1)
    np.testing.assert_array_equal(found.sids.codes[:60], sids.codes)
    np.testing.assert_array_equal(found.sids.codes[60:], tokenizer.encode(SidInputs(x[60:])).codes)
    assert found.counts == {"kept": 60, "new": 20}
    np.testing.assert_array_equal(found.fitted, np.arange(80) < 60)


def test_an_unchanged_item_keeps_even_codes_that_are_not_the_nearest(world):
    """Balanced and split tables have such items; encoding them again would deal
    their codes anew.
    """
    x, tokenizer, sids, ledger = world
    odd = SemanticIds(sids.codes.copy(), sids.lengths, sids.codebook_sizes)
    odd.codes[:, 1] = (odd.codes[:, 1] + 1) % 4
    found = refresh(tokenizer, odd, ledger, SidInputs(x[:60], item_ids=IDS[:60]), margin=0.0)
    np.testing.assert_array_equal(found.sids.codes, odd.codes)
    blind = refresh(tokenizer, odd, None, SidInputs(x[:60], item_ids=IDS[:60]), margin=0.0)
    nearer = squared_errors(tokenizer, x[:60], sids.codes) < squared_errors(
        tokenizer, x[:60], odd.codes
    )
    np.testing.assert_array_equal(
        blind.sids.codes, np.where(nearer[:, None], sids.codes, odd.codes)
    )
    assert not blind.fitted.any()


def test_a_changed_item_moves_exactly_when_the_new_codes_pay(world):
    x, tokenizer, sids, ledger = world
    now = x[:60].copy()
    # from the item's own text to another item's
    towards = np.linspace(0, 1, 30, dtype=np.float32)[:, None]
    now[:30] = (1 - towards) * x[:30] + towards * x[30:60]
    inputs = SidInputs(now.astype(np.float32), item_ids=IDS[:60])
    new = tokenizer.encode(inputs)
    ratio = squared_errors(tokenizer, inputs.vectors, sids.codes) / squared_errors(
        tokenizer, inputs.vectors, new.codes
    )
    moves = []
    for margin in (0.0, 0.1, 1.0):
        found = refresh(tokenizer, sids, ledger, inputs, margin=margin)
        np.testing.assert_array_equal((found.sids.codes != sids.codes).any(1), ratio > 1 + margin)
        np.testing.assert_array_equal(found.cause == "text", ratio > 1 + margin)
        np.testing.assert_array_equal(
            found.cause == "held", (new.codes != sids.codes).any(1) & (ratio <= 1 + margin)
        )
        moves.append(found.counts["text"])
    assert moves[0] > moves[1] > moves[2] > 0
    # the one whose change was nought is still the vector of the fit
    assert found.fitted.sum() == 31


def test_a_tokenizer_with_a_refresh_of_its_own_is_asked(world):
    x, tokenizer, sids, ledger = world

    class Own(RqKmeans):
        def refresh(self, inputs, previous, stays):
            assert stays.all()
            codes, lengths = previous.codes.copy(), previous.lengths.copy()
            codes[3, 1], lengths[3] = -1, 1
            return SemanticIds(codes, lengths, previous.codebook_sizes)

    own = Own(tokenizer.codebook_sizes)
    own.codebooks_ = tokenizer.codebooks_
    found = refresh(own, sids, ledger, SidInputs(x[:60], item_ids=IDS[:60]), margin=0.1)
    assert found.counts == {"kept": 59, "tokenizer": 1}
    assert found.sids.tuple_of(3) == sids.tuple_of(3)[:1]


def test_what_does_not_belong_together_is_refused(world):
    x, tokenizer, sids, ledger = world
    other = SemanticIds(sids.codes, sids.lengths, (8, 16))
    with pytest.raises(ValueError, match=r"codebooks \(8, 4\), the earlier SID table \(8, 16\)"):
        refresh(tokenizer, other, ledger, SidInputs(x[:60], item_ids=IDS[:60]), margin=0.1)
    with pytest.raises(ValueError, match="60 earlier SIDs do not fit 80 items"):
        refresh(tokenizer, sids, ledger, SidInputs(x, item_ids=IDS), margin=0.1)


def test_the_ledger_is_kept_and_its_errors_are_distances(world, tmp_path):
    x, tokenizer, sids, ledger = world
    ledger.save(tmp_path)
    loaded = Ledger.load(tmp_path)
    for name in ("item_ids", "vector", "error", "fitted", "cause"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(ledger, name))
    restored = tokenizer.codebooks_[0][sids.codes[:, 0]] + tokenizer.codebooks_[1][sids.codes[:, 1]]
    np.testing.assert_allclose(ledger.error, ((x[:60] - restored) ** 2).sum(1), rtol=1e-5)
    assert loaded.places(["p3", "nobody", "p59"]).tolist() == [3, -1, 59]
    assert Ledger.load(tmp_path / "nowhere") is None


def test_taking_rows_takes_everything_that_belongs_to_them():
    inputs = SidInputs(
        np.arange(8.0, dtype=np.float32).reshape(4, 2),
        categories=[("a",), (), ("b",), ("c",)],
        counts=np.arange(4),
        query_vectors=np.zeros((2, 2), np.float32),
        query_item_pairs=np.array([[0, 3], [1, 0], [1, 2]]),
        item_ids=list("wxyz"),
    )
    some = take(inputs, np.array([2, 3]))
    assert (some.item_ids, some.categories) == (["y", "z"], [("b",), ("c",)])
    assert some.counts.tolist() == [2, 3]
    assert some.query_item_pairs.tolist() == [[0, 1], [1, 0]]
    assert some.vectors.tolist() == [[4, 5], [6, 7]]


def test_the_reference_is_of_unseen_items_where_a_fit_is_cheap(world, tmp_path):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 8)).astype(np.float32)
    inputs = SidInputs(x)
    tokenizer = RqKmeans((16, 16), seed=0).fit(inputs)
    sids = tokenizer.encode(inputs)
    own = float(squared_errors(tokenizer, x, sids.codes).mean())
    held = make_reference(SidConfig(), tokenizer, sids, inputs, seed=0)
    assert (held["how"], held["items"]) == ("held out", 40)
    # codebooks flatter the items that they were fitted to
    assert held["errors"]["mean"] > 1.05 * own
    assert sum(held["first"]) == 400
    flat = make_reference(SidConfig(reference=0), tokenizer, sids, inputs, seed=0)
    assert (flat["how"], flat["items"], flat["shared"]) == ("in sample", 400, None)
    assert flat["errors"]["mean"] == pytest.approx(own)
    few = RqKmeans((4, 4), seed=0).fit(inputs)
    many = make_reference(SidConfig(reference=0), few, few.encode(inputs), inputs, seed=0)
    assert many["how"] == "many per code"
    left = make_reference(SidConfig(), few, few.encode(inputs), inputs, seed=0)
    assert many["errors"]["mean"] == pytest.approx(left["errors"]["mean"], rel=0.1)
    save_reference(tmp_path, held)
    assert load_reference(tmp_path) == held
    assert load_reference(tmp_path / "nowhere") is None


def test_shares_by_hand():
    codes = np.array([[0, 1], [0, 1], [0, 1], [2, 2], [2, 3]])
    assert experienced(codes) == (9 + 1 + 1) / 5
    assert shared(codes, np.array([0, 3])) == 0.5
    assert shared(codes, np.array([0, 1, 2])) == 0.0
    assert (experienced(codes[:0]), shared(codes, np.array([], int))) == (0.0, 0.0)
