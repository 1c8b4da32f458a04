"""SARQ: the claims of docs/methods/sarq.md on simulated items, the daily refresh, and inputs that
do not fit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import reference_sid

from sidar.config import Config
from sidar.sid import RqKmeans, Sarq, load_tokenizer
from sidar.sid.codebooks.lengths import code_bits
from sidar.sid.quality import report
from sidar.sid.stage import fit_catalogue
from sidar.types import SemanticIds, SidInputs

SIZES = (16,) * 5
N = 8000


@cache
def items() -> tuple[SidInputs, np.ndarray]:
    """Items in a tree of clusters with Zipf popularity that knows nothing of the tree, and their
    classes.
    """
    rng = np.random.default_rng(0)
    group, vectors = rng.integers(0, 10, N), np.zeros((N, 16), np.float32)
    for groups, spread in ((10, 1.0), (100, 0.6), (1000, 0.4)):
        vectors += rng.normal(0, spread, (groups, 16))[group].astype(np.float32)
        group = group * 10 + rng.integers(0, 10, N)
    vectors += rng.normal(0, 0.3, vectors.shape).astype(np.float32)
    share = 1 / (1.0 + rng.permutation(N))
    counts = rng.poisson(60_000 * share / share.sum())
    order = np.argsort(-counts, kind="stable")
    before = np.empty(N)
    before[order] = (np.cumsum(counts[order]) - counts[order]) / counts.sum()
    classes = np.where(before < 0.5, "head", np.where(before < 0.9, "torso", "tail"))
    return SidInputs(vectors, counts=counts), np.where(counts == 0, "cold", classes)


@cache
def fitted(**options: Any) -> tuple[Sarq, SemanticIds]:
    inputs, _ = items()
    tokenizer = Sarq(RqKmeans(SIZES, iterations=5), 3, **options).fit(inputs)
    return tokenizer, tokenizer.encode_catalogue(inputs)


def by_class(sids: SemanticIds) -> dict[str, dict[str, float]]:
    return report(sids, classes=items()[1])["classes"]


def test_popular_items_get_longer_codes_and_half_the_collisions_at_equal_bits() -> None:
    rival, mine, control = (
        by_class(fitted(**options)[1])
        for options in ({"lengths": "fixed"}, {}, {"lengths": "shuffled"})
    )
    bits = {name: fitted(lengths=name)[1] for name in ("fixed", "rule", "shuffled")}
    budget = 3 * 4.0
    for sids in bits.values():
        assert code_bits(sids.lengths, sids.codebook_sizes) / N == pytest.approx(budget, rel=0.01)
    assert bits["fixed"].fixed_length
    assert bits["fixed"].codebook_sizes == (16, 16, 16)
    assert not bits["rule"].fixed_length
    lengths = [mine[name]["mean_length"] for name in ("head", "torso", "tail", "cold")]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1] + 1.5
    assert mine["head"]["collision_rate"] < rival["head"]["collision_rate"] / 2
    assert mine["head"]["collision_rate"] < control["head"]["collision_rate"] / 2
    assert (
        mine["head"]["mean_bucket"]
        < min(rival["head"]["mean_bucket"], control["head"]["mean_bucket"]) / 2
    )
    # the control has the same lengths, on other items
    assert (
        np.bincount(bits["shuffled"].lengths).tolist() == np.bincount(bits["rule"].lengths).tolist()
    )
    assert abs(control["head"]["mean_length"] - 3) < 0.3


def test_the_other_readings_do_not_know_the_head_by_construction() -> None:
    e1, e2, e3 = (by_class(fitted(rule=rule)[1]) for rule in ("e1", "e2", "e3"))
    assert e1["head"]["mean_length"] == pytest.approx(e1["cold"]["mean_length"], abs=0.2)
    # traffic under a prefix is mostly its popular items'
    assert e1["head"]["mean_length"] < e2["head"]["mean_length"]
    assert e3["head"]["collision_rate"] <= e2["head"]["collision_rate"]


def test_the_rule_is_that_of_the_slow_twin() -> None:
    inputs, _ = items()
    tokenizer, _ = fitted()
    full = tokenizer.base.encode(inputs).codes
    assert tokenizer.tau_ is not None
    assert inputs.counts is not None
    want = reference_sid.sarq_lengths(full, inputs.counts, 1.0, 2, tokenizer.tau_)
    alone = tokenizer.encode(inputs)
    assert alone.lengths.tolist() == want
    np.testing.assert_array_equal(
        alone.codes, np.where(np.arange(5) < alone.lengths[:, None], full, -1)
    )


def test_a_new_item_is_cold_until_it_is_seen() -> None:
    inputs, _ = items()
    tokenizer, _ = fitted()
    new = SidInputs(inputs.vectors[:200] + 0.01)
    cold = tokenizer.encode(new)
    sold = tokenizer.encode(replace(new, counts=np.full(200, 10_000)))
    assert (cold.lengths <= sold.lengths).all()
    assert cold.lengths.mean() < sold.lengths.mean() - 1.5
    # popularity changes where an SID ends, not what it says
    assert (sold.codes[:, :2] == cold.codes[:, :2]).all()
    some = tokenizer.encode(SidInputs(inputs.vectors[:200] + 0.01, counts=np.zeros(200)))
    np.testing.assert_array_equal(some.codes, cold.codes)


def test_a_refresh_keeps_lengths_within_the_hysteresis() -> None:
    inputs, _ = items()
    tokenizer, today = fitted()
    assert inputs.counts is not None
    np.testing.assert_array_equal(tokenizer.refresh(inputs, today).codes, today.codes)
    doubled = replace(inputs, counts=2 * inputs.counts)  # credit rises by at most 1 bit
    np.testing.assert_array_equal(tokenizer.refresh(doubled, today).codes, today.codes)
    # without hysteresis many would move
    assert (tokenizer.encode(doubled).lengths > today.lengths).any()
    loud = replace(inputs, counts=np.where(np.arange(N) < 50, 100_000, inputs.counts))
    after = tokenizer.refresh(loud, today)
    assert (after.lengths[:50] == 5).all()
    np.testing.assert_array_equal(after.codes[50:], today.codes[50:])
    # an item whose text changed, and one that is new, are given today's length
    moved, lengths = today.codes.copy(), today.lengths.copy()
    moved[0, 0] = (moved[0, 0] + 1) % 16
    moved[1], lengths[1] = -1, 0
    again = tokenizer.refresh(inputs, SemanticIds(moved, lengths, today.codebook_sizes))
    np.testing.assert_array_equal(again.codes[:2], tokenizer.encode(inputs).codes[:2])
    np.testing.assert_array_equal(again.codes[2:], today.codes[2:])


def test_what_equal_margins_were_dealt_beyond_tau_survives_a_refresh() -> None:
    """Thirty-two items alone under their first code: their next codes have one margin, and the
    budget pays for some.
    """
    vectors = np.eye(32, dtype=np.float32)
    inputs = SidInputs(vectors, counts=np.repeat([15, 0], [4, 28]))
    tokenizer = Sarq(RqKmeans((32, 4, 4)), 2, min_levels=1, budget=7.2).fit(inputs)
    today = tokenizer.encode_catalogue(inputs)
    assert tokenizer.paid_ is not None
    assert tokenizer.tau_ is not None
    assert tokenizer.paid_ > tokenizer.tau_ + 1
    assert (tokenizer.encode(inputs).lengths < today.lengths).any()
    np.testing.assert_array_equal(tokenizer.refresh(inputs, today).codes, today.codes)


@pytest.mark.parametrize(
    "options", [{}, {"rule": "e1"}, {"rule": "e2"}, {"lengths": "fixed"}, {"lengths": "shuffled"}]
)
def test_a_saved_tokenizer_encodes_the_same(tmp_path, options) -> None:
    inputs, _ = items()
    tokenizer, sids = fitted(**options)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    np.testing.assert_array_equal(again.encode_catalogue(inputs).codes, sids.codes)
    np.testing.assert_array_equal(again.encode(inputs).codes, tokenizer.encode(inputs).codes)
    assert again.params() == tokenizer.params()
    assert [book.shape for book in again.codebooks_] == [(16, 16)] * sids.n_levels
    want = RqKmeans(SIZES, iterations=5).fit(inputs).encode(inputs).codes[:, : sids.n_levels]
    if options.get("lengths") == "fixed":
        # the rival is the base itself, one level less deep
        np.testing.assert_array_equal(sids.codes, want)


def test_one_line_of_the_config_chooses_it_and_sizes_are_those_of_the_rival() -> None:
    inputs, _ = items()
    assert inputs.counts is not None
    some = SidInputs(inputs.vectors[:2000], counts=inputs.counts[:2000])
    config = Config.model_validate({"sid": {"method": "sarq"}}).sid
    tokenizer, sids, tried = fit_catalogue(config, some, 0)
    _, rival, tried_by_rival = fit_catalogue(
        config.model_copy(update={"method": "rqkmeans"}), some, 0
    )
    assert sids.codebook_sizes[:3] == rival.codebook_sizes
    assert len(sids.codebook_sizes) == 5
    assert [name.rsplit("/", 2)[0] for name in tried] == list(tried_by_rival)
    assert list(tried.values()) == list(tried_by_rival.values())
    assert code_bits(sids.lengths, sids.codebook_sizes) == pytest.approx(
        code_bits(rival.lengths, rival.codebook_sizes), rel=0.01
    )
    assert isinstance(tokenizer, Sarq)
    explicit = Config.model_validate(
        {"sid": {"method": "sarq", "codebook_sizes": [8, 8, 8], "sarq": {"budget": 8.0}}}
    )
    _, sids, _ = fit_catalogue(explicit.sid, some, 0)
    assert sids.codebook_sizes == (8, 8, 8, 4, 2)
    assert code_bits(sids.lengths, sids.codebook_sizes) / 2000 == pytest.approx(8, rel=0.01)


def test_inputs_that_do_not_fit_are_told_in_words() -> None:
    inputs, _ = items()
    some = SidInputs(inputs.vectors[:50])

    def make(**options: Any) -> Sarq:
        return Sarq(RqKmeans((4, 4, 4, 2), iterations=2), 2, **options)

    with pytest.raises(ValueError, match=r"has no counts; give SidInputs\.counts .*kappa: 0"):
        make().fit(some)
    with pytest.raises(ValueError, match="all 50 counts are 0"):
        make().fit(replace(some, counts=np.zeros(50)))
    with pytest.raises(ValueError, match=r"the count of row 3 is -1"):
        make().fit(replace(some, counts=np.where(np.arange(50) == 3, -1, 1)))
    with pytest.raises(ValueError, match=r"the count of row 4 is nan"):
        make().fit(replace(some, counts=np.where(np.arange(50) == 4, np.nan, 1.0)))
    with pytest.raises(ValueError, match=r"counts \(49,\) do not fit 50 vectors"):
        make().fit(replace(some, counts=np.ones(49)))
    with pytest.raises(
        ValueError, match=r"a budget of 99\.00 bits per item cannot be met.*of 4 codes 7\.00"
    ):
        make(budget=99.0).fit(replace(some, counts=np.arange(50)))
    with pytest.raises(
        ValueError, match=r"min_levels is 3; it must be between 1 and sid\.levels, 2"
    ):
        make(min_levels=3)
    with pytest.raises(ValueError, match="call fit first"):
        make().encode(some)
    with pytest.raises(ValueError, match="balance_last"):
        Sarq.from_config(
            Config.model_validate({"sid": {"method": "sarq", "balance_last": True}}).sid,
            (4, 4, 2),
            0,
        )
    by_crowding = make(kappa=0.0).fit(some).encode(some)  # needs no counts
    assert set(by_crowding.lengths) <= {2, 3, 4}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_items_than_codes_and_equal_vectors(n: int) -> None:
    inputs = SidInputs(np.tile(items()[0].vectors[:1], (n, 1)), counts=np.arange(1, n + 1))
    tokenizer = Sarq(RqKmeans((4, 4, 4, 2, 2), iterations=2), 3).fit(inputs)
    sids = tokenizer.encode_catalogue(inputs)
    assert len(sids) == n
    assert (sids.lengths >= 2).all()
    assert code_bits(sids.lengths, sids.codebook_sizes) <= 6 * n + 1e-9
