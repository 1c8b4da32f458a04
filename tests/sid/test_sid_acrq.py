"""ACRQ: the claims of docs/methods/acrq.md on simulated items, where they fail as well, and inputs
that do not fit.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import reference_sid
import torch

from sidar.config import AcrqConfig, Config, RqVaeConfig
from sidar.sid import Acrq, RqVae, Sarq, load_tokenizer
from sidar.sid.autoencoders.autoencoder import Autoencoder
from sidar.sid.autoencoders.curriculum import (
    COLD,
    HEAD,
    WARM,
    TailFit,
    anchor,
    anchor_weight,
    buckets,
    soft_anchor,
    usage,
)
from sidar.sid.autoencoders.extension import ExtendedQuantiser
from sidar.sid.autoencoders.quantiser import ResidualQuantiser
from sidar.sid.quality import report
from sidar.sid.stage import fit_catalogue
from sidar.sid.tokenizers.acrq import head_threshold
from sidar.types import SidInputs

SIZES = (32, 16, 8)
QUICK = {"hidden": [32], "latent": 12, "batch_size": 128, "steps": 80, "tail_steps": 40}


@cache
def shop(seller: float, n: int = 2400, seed: int = 0) -> tuple[SidInputs, list[tuple[str, ...]]]:
    """Zipf items of 120 leaf categories. All but the most popular fifth also speak of their seller
    (``seller`` long), in dimensions that say nothing of the category: boilerplate that popular
    items do not have.
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    top, middle, leaf_ = (rng.normal(0, s, (k, 12)) for k, s in ((6, 1.0), (30, 0.7), (120, 0.5)))
    leaf = rng.integers(0, 120, n)
    rank = rng.permutation(n)
    share = 1 / (rank + 1.0)
    counts = rng.poisson(n * 3 * share / share.sum())
    said = rng.normal(0, seller, (30, 12))[rng.integers(0, 30, n)] * (rank >= n / 5)[:, None]
    vectors = (top[leaf // 20] + middle[leaf // 4] + leaf_[leaf]) @ axes[:, :12].T + said @ axes[
        :, 12:
    ].T
    vectors += rng.normal(0, 0.3, vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return SidInputs(vectors.astype(np.float32), counts=counts), [
        (str(i // 20), str(i // 4), str(i)) for i in leaf
    ]


@cache
def fitted(seller: float = 1.0, **options: object) -> Acrq:
    return Acrq(SIZES, 0, options={**QUICK, **options}).fit(shop(seller)[0])


def purity(tokenizer: Acrq | RqVae, seller: float, head_from: int) -> dict[str, float]:
    """P(same leaf category | same two codes) of head, tail and cold items."""
    inputs, categories = shop(seller)
    assert inputs.counts is not None
    classes = np.where(
        inputs.counts >= head_from, "head", np.where(inputs.counts > 0, "tail", "cold")
    )
    sids = tokenizer.encode_catalogue(inputs)
    found = report(sids, categories=categories, classes=classes)["classes"]
    return {name: each["purity"] for name, each in found.items()}


def error(tokenizer: Acrq | RqVae, inputs: SidInputs, rows: np.ndarray) -> float:
    restored = tokenizer.reconstruct(tokenizer.encode(inputs).codes[rows])
    return float(np.square(inputs.vectors[rows] - restored).sum(1).mean())


# ---------------------------------------------------------------------- the claims


def test_the_heads_manifold_is_bit_identical_after_the_tail() -> None:
    before, after = fitted(tail_steps=0), fitted()
    assert before.model is not None
    assert after.model is not None
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name]), name
    inputs, _ = shop(1.0)
    assert inputs.counts is not None
    head = inputs.counts >= after.head_from_
    np.testing.assert_array_equal(
        before.encode(inputs).codes[head], after.encode(inputs).codes[head]
    )
    # the tail did learn
    assert (before.encode(inputs).codes[~head] != after.encode(inputs).codes[~head]).any()
    assert after.anchored is not None
    for mine, theirs in zip(
        after.anchored.encoder.parameters(), after.model.encoder.parameters(), strict=True
    ):
        assert not torch.equal(mine, theirs)


def test_where_the_tail_says_more_than_its_category_the_heads_codes_keep_it_pure() -> None:
    inputs, _ = shop(1.0)
    mine = fitted()
    assert mine.head_from_ is not None
    joint = RqVae(
        SIZES, 0, options={k: v for k, v in QUICK.items() if k != "tail_steps"} | {"steps": 120}
    ).fit(inputs)
    ours, theirs = purity(mine, 1.0, mine.head_from_), purity(joint, 1.0, mine.head_from_)
    assert ours["tail"] > theirs["tail"] + 0.2
    assert ours["cold"] > theirs["cold"] + 0.2


def test_where_the_tail_is_like_the_head_training_on_all_is_better() -> None:
    """The claim is no law: a fifth of the items teaches less than all of them
    (docs/methods/acrq.md).
    """
    inputs, _ = shop(0.0)
    mine = fitted(0.0)
    assert mine.head_from_ is not None
    joint = RqVae(
        SIZES, 0, options={k: v for k, v in QUICK.items() if k != "tail_steps"} | {"steps": 120}
    ).fit(inputs)
    ours, theirs = purity(mine, 0.0, mine.head_from_), purity(joint, 0.0, mine.head_from_)
    assert ours["tail"] < theirs["tail"]
    assert ours["cold"] < theirs["cold"]


def test_the_tail_reaches_an_error_in_fewer_steps_than_from_scratch() -> None:
    """With TIGER's random start.

    From PCA and k-means (the default) there is next to nothing left to accelerate.
    """
    inputs, _ = shop(0.0)
    assert inputs.counts is not None
    options = {"start": "random", "steps": 300}
    short = fitted(0.0, **options, tail_steps=20)
    tail = np.flatnonzero((inputs.counts > 0) & (inputs.counts < (short.head_from_ or 0)))
    alone = SidInputs(inputs.vectors[tail])
    scratch = RqVae(
        SIZES,
        0,
        options={**{k: v for k, v in QUICK.items() if k != "tail_steps"}, "start": "random"},
    )
    scratch.fit(alone)  # 80 steps
    assert error(short, inputs, tail) < error(scratch, alone, np.arange(len(tail)))


def test_cold_items_are_written_in_the_heads_codes_alone() -> None:
    inputs, _ = shop(1.0)
    mine = fitted()
    assert inputs.counts is not None
    sids = mine.encode(inputs)
    assert sids.codebook_sizes == SIZES
    assert mine.n_frozen == (28, 14, 7)
    beyond = (sids.codes >= mine.n_frozen).any(axis=1)
    cold, head = inputs.counts == 0, inputs.counts >= mine.head_from_
    assert not beyond[cold | head].any()
    assert beyond[~cold & ~head].mean() > 0.02
    new = mine.encode(SidInputs(inputs.vectors))  # nobody's count is known: all are cold
    assert not (new.codes >= mine.n_frozen).any()
    np.testing.assert_array_equal(new.codes[cold], sids.codes[cold])


def test_the_switches_do_what_they_say() -> None:
    inputs, _ = shop(1.0)
    assert inputs.counts is not None
    warm, few = (
        (inputs.counts > 0) & (inputs.counts < (fitted().head_from_ or 0)),
        {"steps": 20, "tail_steps": 12},
    )

    def extended(**options: object) -> float:
        tokenizer = fitted(**few, **options)
        return float((tokenizer.encode(inputs).codes[warm] >= tokenizer.n_frozen).mean())

    assert extended(handicap=5.0) < extended() < extended(handicap=0.0)
    frozen = fitted(**few, extension=0.0, encoder_lr=0.0)
    assert frozen.n_frozen == SIZES
    assert frozen.model is not None
    direct = frozen.model.quantiser.assign(frozen.model.encode(torch.from_numpy(inputs.vectors)))[
        0
    ].numpy()
    # an RQ-VAE of the head, applied to all
    np.testing.assert_array_equal(frozen.encode(inputs).codes, direct)
    given = fitted(**few, transfer=True)
    head = inputs.counts >= (given.head_from_ or 0)
    prefixes = {tuple(c) for c in given.encode(inputs).codes[head, :2].tolist()}
    assert {tuple(c) for c in given.encode(inputs).codes[~head, :2].tolist()} <= prefixes
    for anchored in ("kl", "none"):
        records = [r for r in fitted(**few, anchor=anchored).history_ if r["stage"] == "tail"]
        assert ("anchor" in records[-1]) == (anchored == "kl")
        assert all(math.isfinite(r["loss"]) for r in records)


# ---------------------------------------------------------------------- the parts


def test_assignment_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    head = ResidualQuantiser((5, 4), 3, 0.9)
    both = ExtendedQuantiser(head, (3, 0), 0.9, handicap=0.3)
    for module, sizes in ((head, (5, 4)), (both, (3, 0))):
        for level, size in enumerate(sizes):
            module.part("book", level).copy_(torch.randn(size, 3, generator=generator))
    z, warm = torch.randn(200, 3, generator=generator), torch.rand(200, generator=generator) < 0.6
    codes, parts, near = both.assign(z, warm)
    frozen, extra = (
        [b.numpy() for b in books]
        for books in (head.books, [both.part("book", i) for i in range(2)])
    )
    want = reference_sid.extended_codes(z.numpy(), warm.numpy(), frozen, extra, 0.3)
    np.testing.assert_array_equal(codes.numpy(), want)
    assert (codes[warm, 0] >= 5).any()
    assert (codes[~warm, 0] < 5).all()
    torch.testing.assert_close(parts.sum(1), both.restore(codes))
    torch.testing.assert_close(near[:, 0], head.books[0][head.assign(z)[0][:, 0]])
    assert both.sizes == (8, 4)


def test_only_the_extension_follows_and_restarts_from_warm_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    head = ResidualQuantiser((4,), 2, 0.5)
    head.book_0.copy_(torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]]))
    both = ExtendedQuantiser(head, (2,), 0.5, handicap=0.0)
    both.book_0.copy_(torch.tensor([[5.0, 5], [-9, -9]]))
    both.count_0.fill_(1.0)
    both.total_0.copy_(both.book_0)
    z = torch.tensor([[5.0, 6.0], [0.1, 0.0], [40.0, 40.0]])
    warm = torch.tensor([True, True, False])
    codes, parts, _ = both.assign(z, warm)
    # the last row is far from everything and may not take an extension code
    assert codes[:, 0].tolist() == [4, 0, 3]
    before = head.book_0.clone()
    both.follow(z, codes, parts)
    assert torch.equal(head.book_0, before)
    assert both.count_0.tolist() == [1.0, 0.5]  # .5 · 1 + .5 · 1 and .5 · 1 + .5 · 0
    assert both.book_0[0].tolist() == [5.0, 5.5]  # (.5 · 5 + .5 · 5, .5 · 5 + .5 · 6) / 1
    assert both.book_0[1].tolist() == [-9, -9]
    assert both.restart(z, codes, parts, warm, 0.9, generator) == 1  # count .5 < .9 · .75
    place = both.book_0[1]  # half-way between a warm residual and its code: never towards (40, 40)
    assert place.tolist() in ([5.0, 5.5], [pytest.approx(0.05), 0.0])


def test_loss_terms_by_hand() -> None:
    rest, near = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    assert anchor(rest, near, 10) == pytest.approx((5 + 25) / 10)
    book = torch.tensor([[1.0, 0], [-1, 0]])
    even = torch.tensor([[[1.0, 0]], [[-1.0, 0]]])
    assert usage(even, [book]) == pytest.approx(0.0, abs=1e-5)
    assert usage(even[:1] + 1e-3, [book]) == pytest.approx(math.log(2), abs=1e-3)  # all on one code
    assert usage(even, [book[:1]]) == 0  # one code cannot be used unevenly
    assert usage(even[:0], [book]) == 0
    target = torch.tensor([[[0.5, 0.0]]])
    assert soft_anchor(target, target, [book]) == pytest.approx(0.0, abs=1e-6)
    moved = torch.tensor([[[-0.5, 0.0]]], requires_grad=True)
    # distances² (.25, 2.25) against (2.25, .25), T = .25: p = (1, e⁻⁸)/Z, so KL = 8 · (p₁ − p₂)
    value = soft_anchor(moved, target, [book])
    p = 1 / (1 + math.exp(-8))
    assert value.item() == pytest.approx(8 * (2 * p - 1), rel=1e-4)
    value.backward()
    assert moved.grad is not None
    assert moved.grad[0, 0, 0] < 0  # descending moves it back to the right
    cfg = AcrqConfig(tail_steps=11)
    assert [round(anchor_weight(s, cfg), 3) for s in (0, 5, 10)] == [1.0, 0.55, 0.1]


def test_the_curriculum_goes_from_torso_over_tail_to_cold() -> None:
    counts = np.array([9, 0, 3, 1, 2, 0, 8, 4, 1])
    kinds = np.where(counts >= 8, HEAD, np.where(counts > 0, WARM, COLD))
    assert [rows.tolist() for rows in buckets(counts, kinds)] == [[7, 2, 4], [3, 8], [1, 5]]
    assert [rows.tolist() for rows in buckets(counts, np.where(kinds == WARM, HEAD, kinds))] == [
        [1, 5]
    ]
    base = Autoencoder(4, (2, 2), RqVaeConfig(hidden=[4], latent=2), 0)
    mine = Acrq((3, 3), options={"hidden": [4], "latent": 2})
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    cfg = AcrqConfig(hidden=[4], latent=2, tail_steps=9, batch_size=4)
    stage = TailFit(mine._anchored(base), cfg, vectors, counts, kinds, seed=0)
    assert [(len(pool), span, inside) for pool, span, inside in map(stage.pool, range(9))] == [
        *((3, 0, i) for i in range(3)),
        *((5, 1, i) for i in range(3)),
        *((7, 2, i) for i in range(3)),
    ]


def test_who_is_head() -> None:
    counts = np.array([10, 8, 8, 5, 2, 1, 0, 0, 0, 0])
    assert head_threshold(counts, 0.1) == 10
    assert head_threshold(counts, 0.2) == 10  # two items of 8 are head together or not at all
    assert head_threshold(counts, 0.3) == 8
    assert head_threshold(counts, 1.0) == 1  # never an item that nobody touched
    assert head_threshold(counts, 0.2, traffic=0.29) == 10  # 10 of 34
    # 10 + 8 would do, but the other 8 comes along
    assert head_threshold(counts, 0.2, traffic=0.5) == 8
    assert head_threshold(counts, 0.2, traffic=1.0) == 1
    assert head_threshold(np.array([4, 4, 4, 0]), 0.25) == 4  # ties at the top: all of them


# ---------------------------------------------------------------------- life


def test_a_saved_tokenizer_encodes_and_restores_the_same(tmp_path) -> None:
    inputs, _ = shop(1.0)
    for number, tokenizer in enumerate((fitted(), fitted(steps=20, tail_steps=12, transfer=True))):
        folder = tmp_path / str(number)
        folder.mkdir()
        tokenizer.save(folder)
        again = load_tokenizer(folder)
        assert isinstance(again, Acrq)
        sids = tokenizer.encode(inputs)
        np.testing.assert_array_equal(again.encode(inputs).codes, sids.codes)
        np.testing.assert_array_equal(
            again.reconstruct(sids.codes[:9]), tokenizer.reconstruct(sids.codes[:9])
        )
        assert again.params() == tokenizer.params()
        assert again.history_ == tokenizer.history_
        assert [book.shape for book in again.codebooks_] == [(size, 24) for size in SIZES]


def test_a_killed_fit_goes_on_in_its_second_stage_and_ends_the_same(tmp_path, monkeypatch) -> None:
    inputs, _ = shop(1.0)
    options = {**QUICK, "steps": 20, "checkpoint_every": 20, "log_every": 20}
    whole = Acrq(SIZES, 0, options=options).fit(inputs)
    cut = Acrq(SIZES, 0, options=options)
    cut.work = tmp_path / "work"
    step = TailFit._step

    def dies(self, number):
        if number == 30:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(TailFit, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(inputs)
    monkeypatch.setattr(TailFit, "_step", step)
    steps = []
    monkeypatch.setattr(
        TailFit, "_step", lambda self, number: steps.append(number) or step(self, number)
    )
    again = Acrq(SIZES, 0, options=options)
    again.work = tmp_path / "work"
    again.fit(inputs)
    assert steps[0] == 20
    assert whole.anchored is not None
    assert again.anchored is not None
    for name, tensor in whole.anchored.state_dict().items():
        assert torch.equal(tensor, again.anchored.state_dict()[name]), name
    assert again.history_ == whole.history_


def test_interrupted_work_of_other_popularities_is_discarded(tmp_path, monkeypatch) -> None:
    """As many head, warm and cold items, but other ones: the curriculum is another."""
    inputs, _ = shop(1.0)
    options = {**QUICK, "steps": 0, "tail_steps": 40, "checkpoint_every": 10, "log_every": 10}
    step = TailFit._step

    def dies(self, number):
        if number == 10:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(TailFit, "_step", dies)
    cut = Acrq(SIZES, 0, options=options)
    cut.work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        cut.fit(inputs)
    monkeypatch.setattr(TailFit, "_step", step)
    assert cut.head_from_ is not None
    warm = np.flatnonzero((inputs.counts > 0) & (inputs.counts < cut.head_from_))
    counts = inputs.counts.copy()
    counts[warm] = counts[warm][np.random.default_rng(0).permutation(len(warm))]
    again = Acrq(SIZES, 0, options=options)
    again.work = tmp_path / "work"
    steps: list[int] = []
    monkeypatch.setattr(
        TailFit, "_step", lambda self, number: steps.append(number) or step(self, number)
    )
    again.fit(replace(inputs, counts=counts))
    assert steps == list(range(40))


def test_sa2crq_is_one_line_and_goes_through_a_refresh() -> None:
    inputs, _ = shop(1.0)
    assert inputs.counts is not None
    settings = {
        "method": "sarq",
        "codebook_sizes": [32, 16, 8],
        "sarq": {"base": "acrq"},
        "acrq": {**QUICK, "progressive": True, "steps": 40, "tail_steps": 30},
    }
    tokenizer, sids, _ = fit_catalogue(Config.model_validate({"sid": settings}).sid, inputs, 0)
    assert isinstance(tokenizer, Sarq)
    assert isinstance(tokenizer.base, Acrq)
    assert sids.codebook_sizes == (32, 16, 8, 4, 2)
    head = inputs.counts >= (tokenizer.base.head_from_ or 0)
    assert sids.lengths[head].mean() > sids.lengths[inputs.counts == 0].mean() + 1
    assert tokenizer.reconstruct(sids.codes[:5]).shape == (5, 24)
    # a cold item is sold for the first time: the base would write it with the extension, but its
    # SID stays
    sold = replace(inputs, counts=np.where(inputs.counts == 0, 1, inputs.counts))
    after = tokenizer.refresh(sold, sids, np.ones(len(sids), bool))
    np.testing.assert_array_equal(after.codes, np.where(sids.codes >= 0, sids.codes, after.codes))
    free = tokenizer.refresh(sold, sids)
    assert (free.codes[:, :2] != sids.codes[:, :2]).any()


def test_inputs_that_do_not_fit_are_told_in_words() -> None:
    vectors = shop(1.0)[0].vectors[:40]

    def make(sizes: tuple[int, ...] = (4, 2)) -> Acrq:
        return Acrq(sizes, options={**QUICK, "steps": 3, "tail_steps": 3})

    with pytest.raises(ValueError, match="has no counts"):
        make().fit(SidInputs(vectors))
    with pytest.raises(ValueError, match="all 40 counts are 0, so there is no head"):
        make().fit(SidInputs(vectors, counts=np.zeros(40)))
    with pytest.raises(ValueError, match="the count of row 2 is nan"):
        make().fit(SidInputs(vectors, counts=np.where(np.arange(40) == 2, np.nan, 1.0)))
    with pytest.raises(ValueError, match=r"counts \(3,\) do not fit 40 vectors"):
        make().fit(SidInputs(vectors, counts=np.ones(3)))
    with pytest.raises(ValueError, match="call fit first"):
        make().encode(SidInputs(vectors))
    with pytest.raises(ValueError, match="row 7 is not finite"):
        make().fit(
            SidInputs(np.where(np.arange(40)[:, None] == 7, np.nan, vectors), counts=np.ones(40))
        )
    assert not fitted(0.0).notes_
    # the untouched half lives in other dimensions
    far = np.concatenate([vectors, np.roll(vectors, 12, axis=1)])
    odd = Acrq((8, 4), options={**QUICK, "latent": 4, "steps": 20, "tail_steps": 3})
    odd.fit(SidInputs(far, counts=np.arange(80) < 40))
    assert any("of what cold items differ in" in note for note in odd.notes_)
    small = make((32, 16)).fit(SidInputs(vectors, counts=np.arange(40)))
    assert small.notes_[0].startswith("8 head items for 28 frozen first codes")


@pytest.mark.parametrize("counts", [[5], [2, 2, 2], [3, 0, 0, 0], [9, 1, 1, 1]])
def test_few_items_and_equal_counts(counts: list[int]) -> None:
    vectors = shop(1.0)[0].vectors[: len(counts)]
    inputs = SidInputs(vectors, counts=np.array(counts))
    tokenizer = Acrq((8, 4), options={**QUICK, "steps": 4, "tail_steps": 4}).fit(inputs)
    sids = tokenizer.encode_catalogue(inputs)
    assert (sids.lengths == 2).all()
    assert np.isfinite(tokenizer.reconstruct(sids.codes)).all()
    assert np.isfinite(np.concatenate(tokenizer.codebooks_)).all()
