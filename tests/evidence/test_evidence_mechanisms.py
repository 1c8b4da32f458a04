"""The mechanism probes against counting, loops and plain autograd."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from reference_align import common_prefix, cosine, mean
from toy_train import list_stream, tiny_model, toy_lists, toy_sids, write_backbone

from experiments.raddpo import auc
from experiments.raddpo.gradients import (
    cut,
    first_step_cosines,
    gradient_figures,
    pulls,
    push_figures,
    taken,
    window_at,
    yardstick,
)
from experiments.raddpo.labels import LabelledList, label, normalise
from experiments.raddpo.mechanisms import oscillation, probe
from experiments.raddpo.tables import STATES, Measured, Truth, embedding_similarity, measure
from sidar.align import objective
from sidar.align.rdrw import similarity_weight
from sidar.config import AlignConfig
from sidar.lm.candidates import Candidate
from sidar.lm.packing import pack, score
from sidar.train.examples import Example
from sidar.types import SemanticIds


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    found = tiny_model(write_backbone(tmp_path_factory.mktemp("backbone")), seed=1)
    with torch.no_grad():  # heads start at zero: then nothing could differ
        g = torch.Generator().manual_seed(3)
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g) * 0.15)
    return found.eval()


def truth_of(table, seed=0):
    """A drawn grade for everything that the lists show."""
    rng = np.random.default_rng(seed)
    return {
        (r["request_id"], row): float(rng.choice([1.0, 0.1, 0.0]))
        for r in table.to_pylist()
        for row in r["positives"] + r["negatives"]
    }


@pytest.fixture(scope="module")
def lists(model):
    """Some negatives are moved to another shelf, so that all, some or none of a list's share y_w*'s
    first code.
    """
    records = toy_lists(24).to_pylist()
    for number, record in enumerate(records):
        moved = [number % 4 == 0 or (number % 4 != 1 and place % 2 == 0) for place in range(6)]
        record["negatives"] = [
            (r + 24) % 64 if m else r for r, m in zip(record["negatives"], moved, strict=False)
        ]
    table = pa.Table.from_pylist(records, schema=toy_lists(1).schema)
    return label(table, truth_of(table), toy_sids(), model.prompts)


# ---------------------------------------------------------------------- AUC


def count_pairs(scores, positive):
    right = [s for s, p in zip(scores, positive, strict=True) if p]
    wrong = [s for s, p in zip(scores, positive, strict=True) if not p]
    if not right or not wrong:
        return math.nan
    return mean(
        [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(right, wrong)]
    )


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs_with_ties_and_weights(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.3
    times = rng.integers(0, 4, (7, 40)).astype(float)
    assert auc.auc(scores, positive)[0] == pytest.approx(count_pairs(scores, positive))
    want = [
        count_pairs(np.repeat(scores, t.astype(int)), np.repeat(positive, t.astype(int)))
        for t in times
    ]
    assert auc.auc(scores, positive, times) == pytest.approx(want, nan_ok=True)


def test_auc_of_one_side_alone_is_undefined():
    assert math.isnan(auc.auc(np.array([0.1, 0.2]), np.array([True, True]))[0])
    assert math.isnan(auc.auc(np.array([]), np.array([], bool))[0])


def test_separation_resamples_whole_queries():
    """Slow twin: every resample is written out as a longer data set and counted."""
    rng = np.random.default_rng(4)
    owner = np.repeat(np.arange(9), 5)
    # of the lists: some queries were asked several times
    cluster = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5])
    positive = rng.random(45) < 0.4
    scores = rng.normal(size=45) + positive
    scores[7] = np.nan
    times = auc.multiplicities(6, samples=40, seed=1)
    assert (times.sum(1) == 6).all()
    found = auc.separation(scores, positive, owner, cluster, times)
    kept = np.isfinite(scores)
    pooled, inside = [], []
    for drawn in times:
        rows = np.concatenate(
            [
                np.tile(np.flatnonzero(kept & (cluster[owner] == c)), int(n))
                for c, n in enumerate(drawn)
            ]
        )
        pooled.append(count_pairs(scores[rows], positive[rows]))
        won = compared = 0.0
        for one in range(9):
            mine = np.flatnonzero(kept & (owner == one))
            pairs = [(a, b) for a in mine for b in mine if positive[a] and not positive[b]]
            won += drawn[cluster[one]] * sum(scores[a] > scores[b] for a, b in pairs)
            compared += drawn[cluster[one]] * len(pairs)
        inside.append(won / compared)
    assert found["auc"] == pytest.approx(count_pairs(scores[kept], positive[kept]))
    assert (found["auc_low"], found["auc_high"]) == pytest.approx(
        tuple(np.quantile(pooled, [0.025, 0.975]))
    )
    assert found["auc_within_low"] == pytest.approx(np.quantile(inside, 0.025))
    assert found["auc_within_high"] == pytest.approx(np.quantile(inside, 0.975))


def test_within_ignores_what_lists_differ_in():
    """A score that only tells lists apart: pooled it looks good, inside a list it is a coin."""
    owner, positive = np.repeat([0, 1], 4), np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)
    scores = np.where(owner == 0, 2.0, 1.0)
    found = auc.separation(scores, positive, owner, np.array([0, 1]), auc.multiplicities(2, 20))
    assert found["auc"] == pytest.approx(0.75)
    assert found["auc_within"] == pytest.approx(0.5)


# ---------------------------------------------------------------------- labels


def test_labels_follow_the_surviving_candidates(model):
    """Rows 3 and 4 share an SID, as do 5 and 6, and 7 has the positive's."""
    codes = np.array(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0], [2, 0, 0], [3, 0, 1], [3, 0, 1], [0, 0, 0]],
        np.int32,
    )
    sids = SemanticIds(codes, np.full(8, 3, np.int32), (8, 4, 2))
    table = pa.Table.from_pylist(
        [
            {
                "request_id": "a",
                "query": "Red  Shoes!",
                "history": [],
                "profile": "",
                "positives": [0],
                "tiers": [1],
                "negatives": [3, 7, 5, 4, 6, 2],
                "negative_positions": [1, 2, 4, 5, 6, 9],
            }
        ],
        schema=pa.schema([*toy_lists(1).schema, ("negative_positions", pa.list_(pa.int32()))]),
    )
    grades = {0: 1.0, 3: 0.1, 4: 1.0, 5: 0.1, 6: 0.01, 2: 0.0, 7: 1.0}
    truth = {("a", row): grade for row, grade in grades.items()}
    (one,) = label(table, truth, sids, model.prompts)
    assert [c.codes for c in one.example.candidates] == [(0, 0, 0), (2, 0, 0), (3, 0, 1), (1, 1, 0)]
    assert one.pseudo == (False, True, False, False)  # by row 4, the second behind its SID
    assert one.grade == (1.0, 1.0, 0.1, 0.0)
    assert one.rows == (0, 3, 5, 2)
    assert one.positions == (0, 1, 4, 9)
    assert (one.cluster, one.negatives_shown, one.dropped, one.repeated) == ("red shoes", 6, 1, 2)
    assert {c.codes for c in one.unrelated} == {(1, 0, 0)}  # all that the list did not show
    del truth["a", 2]
    with pytest.raises(ValueError, match="did not show row 2"):
        label(table, truth, sids, model.prompts)


def test_queries_are_normalised_as_the_data_stage_does():
    assert normalise(["Red  Shoes!", "red shoes", "ＲＥＤ", "鞋子 red"]) == [
        "red shoes",
        "red shoes",
        "ｒｅｄ",
        "鞋 子 red",
    ]


def test_a_list_without_an_sid_is_refused(model):
    table = toy_lists(2)
    sids = toy_sids()
    bare = SemanticIds(np.full_like(sids.codes, -1), np.zeros(64, np.int32), sids.codebook_sizes)
    with pytest.raises(ValueError, match="2 of 2 lists"):
        label(table, truth_of(table), bare, model.prompts)


# ---------------------------------------------------------------------- measuring


def test_measure_equals_a_list_at_a_time(model, lists):
    said = measure(model, lists, batch=5)
    for b, one in enumerate(lists):
        listed = [*one.example.candidates, *one.unrelated]
        for state in STATES:
            with torch.no_grad():
                scores = score(
                    model, pack([one.example.tokens], [listed], model.vocab), rdrw_state=state
                )
            star = int(scores.star[0])
            want = [cosine(scores.hidden[0, star].tolist(), h.tolist()) for h in scores.hidden[0]]
            assert said.similarity[state][b, : len(listed)] == pytest.approx(want, abs=2e-5)
        total = scores.logp[0].sum(-1).numpy()
        assert said.logp[b, : len(listed)] == pytest.approx(total, abs=1e-4)
        assert said.reward[b, : len(listed)] == pytest.approx(total / 3, abs=1e-4)
        assert np.isnan(said.logp[b, len(listed) :]).all()
        assert said.prefix[b, : len(listed)].tolist() == [
            common_prefix(listed[star].codes, c.codes) for c in listed
        ]
        p = scores.first_logp[0].exp()
        assert said.top[b] == pytest.approx(float(p.max()), abs=1e-5)
        assert said.entropy[b] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-4)


def test_embedding_similarity_is_a_cosine(lists):
    vectors = np.random.default_rng(0).normal(size=(64, 7)).astype(np.float32)
    truth = Truth.of(lists)
    found = embedding_similarity(truth, vectors)
    for b, one in enumerate(lists):
        star = one.rows[int(truth.star[b])]
        want = [cosine(vectors[star].tolist(), vectors[row].tolist()) for row in one.rows]
        assert found[b, : len(want)] == pytest.approx(want, abs=1e-6)
        assert np.isnan(found[b, len(want) :]).all()


# ---------------------------------------------------------------------- the probe


def test_probe_equals_loops(model, lists):
    cfg = AlignConfig(objective="raddpo")
    reference = tiny_like(model)
    found = probe(model, lists, cfg, reference=reference, samples=20)
    said, before = measure(model, lists), measure(reference, lists)
    rows = []  # one per pair (y_w*, negative)
    others, other_change, unrelated = [], [], []
    for b, one in enumerate(lists):
        listed = one.example.candidates
        tiers = [c.tier for c in listed]
        star = tiers.index(max(tiers))
        others += [said.logp[b, c] for c, x in enumerate(listed) if x.is_positive and c != star]
        other_change += [
            said.logp[b, c] - before.logp[b, c]
            for c, x in enumerate(listed)
            if x.is_positive and c != star
        ]
        unrelated += [said.logp[b, len(listed) + u] for u in range(len(one.unrelated))]
        for c, x in enumerate(listed):
            if not x.is_positive:
                rows.append(
                    {
                        "list": b,
                        "pseudo": one.pseudo[c],
                        "sim": said.similarity["eos_out"][b, c],
                        "shared": common_prefix(listed[star].codes, x.codes),
                        "margin": said.reward[b, star] - said.reward[b, c],
                        "logp": said.logp[b, c],
                        "better": one.grade[c] - one.grade[star],
                    }
                )
    pseudo, true = ([r for r in rows if r["pseudo"] is kind] for kind in (True, False))
    assert pseudo
    assert true
    assert found["pairs/count"] == len(rows)
    assert found["pairs/pseudo"] == pytest.approx(len(pseudo) / len(rows))
    assert found["pairs/shared1"] == pytest.approx(mean([r["shared"] >= 1 for r in rows]))
    assert found["pairs/shared2"] == pytest.approx(mean([r["shared"] >= 2 for r in rows]))
    assert found["pairs/separable"] == pytest.approx(mean([r["better"] != 0 for r in rows]))
    assert found["pairs/inverted"] == pytest.approx(mean([r["better"] > 0 for r in rows]))
    for end, chosen in (("", rows), ("_true", true), ("_pseudo", pseudo)):
        assert found[f"pairs/accuracy{end}"] == pytest.approx(
            mean([r["margin"] > 0 for r in chosen])
        )
        assert found[f"pairs/margin{end}"] == pytest.approx(
            mean([r["margin"] for r in chosen]), abs=1e-6
        )
    assert found["rdrw/eos_out/auc"] == pytest.approx(
        count_pairs([r["sim"] for r in rows], [r["pseudo"] for r in rows])
    )
    anchors = tuple(np.quantile([r["sim"] for r in rows], [0.25, 0.5, 0.75]).tolist())
    for name, chosen in (("pseudo", pseudo), ("true", true)):
        weights = [float(similarity_weight(torch.tensor(r["sim"]), anchors)) for r in chosen]
        assert found[f"rdrw/eos_out/weight_{name}"] == pytest.approx(mean(weights), abs=1e-6)
    assert found["rdrw/eos_out/prefix_correlation"] == pytest.approx(
        np.corrcoef([r["sim"] for r in rows], [r["shared"] for r in rows])[0, 1], abs=1e-6
    )
    assert found["squeeze/others"] == pytest.approx(mean(others), abs=1e-5)
    assert found["squeeze/others_change"] == pytest.approx(mean(other_change), abs=1e-5)
    assert (
        found["squeeze/others_change_low"]
        <= found["squeeze/others_change"]
        <= found["squeeze/others_change_high"]
    )
    assert found["squeeze/unrelated"] == pytest.approx(mean(unrelated), abs=1e-5)
    assert found["squeeze/negatives"] == pytest.approx(mean([r["logp"] for r in true]), abs=1e-5)
    assert found["squeeze/pseudo"] == pytest.approx(mean([r["logp"] for r in pseudo]), abs=1e-5)
    known = probe(
        model, lists, cfg, before=measure(reference, lists, states=False), said=said, samples=20
    )
    assert known == pytest.approx(found, nan_ok=True)


def tiny_like(model, scale=0.05):
    """The model a little off: a reference that differs."""
    import copy

    other = copy.deepcopy(model).requires_grad_(False)
    g = torch.Generator().manual_seed(8)
    for parameter in other.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=g) * scale)
    return other


def hand_built(model, *, similar, dissimilar):
    """Two lists over hand-picked codes: y_w* = (0, 0, 0), pseudo-negatives ``similar``, true ones
    ``dissimilar``.
    """
    made = []
    for number, query in enumerate(("hat", "bag")):
        tokens = model.prompts.encode_batch(list_stream(model).prompts([number]), toy_sids())[0]
        candidates = [Candidate((0, 0, 0), True, 1)] + [
            Candidate(c) for c in (*similar, *dissimilar)
        ]
        pseudo = (False, *(True for _ in similar), *(False for _ in dissimilar))
        grade = (1.0, *(1.0 if p else 0.0 for p in pseudo[1:]))
        made.append(LabelledList(Example(tokens, candidates, True), pseudo, grade, query))
    return made


def test_two_lists_whose_pseudo_negatives_share_two_codes(model):
    lists = hand_built(model, similar=[(0, 0, 1)], dissimilar=[(3, 1, 0), (4, 2, 1)])
    found = probe(model, lists, AlignConfig(rdrw_state="item_vector"), samples=10)
    assert found["auc/prefix"] == found["auc/prefix_within"] == found["auc/prefix_low"] == 1.0
    assert found["rdrw/last_code/auc"] == 1.0  # they share the state that outputs the last code
    assert found["pairs/pseudo"] == pytest.approx(1 / 3)
    assert found["pairs/separable"] == pytest.approx(2 / 3)
    assert found["prefix/lists"] == 1.0
    assert "auc/position" not in found
    assert "squeeze/star_change" not in found
    bad = probe(
        model,
        hand_built(model, similar=[(3, 1, 0)], dissimilar=[(0, 0, 1)]),
        AlignConfig(),
        samples=10,
    )
    assert bad["auc/prefix"] == bad["rdrw/last_code/auc"] == 0.0


def test_a_shared_first_code_is_undone_without_tlgd_and_kept_with_it(model):
    """One negative per list: the pulls on the first head are opposite, so the cosine is −1
    (docs/methods/raddpo.md).
    """
    lists = hand_built(model, similar=[(0, 0, 1)], dissimilar=[])
    found = gradient_figures(model, lists, AlignConfig(rdrw=False), None)
    assert found["prefix/cancelled"] == pytest.approx(1.0, abs=1e-5)
    assert found["prefix/cos_head"] == pytest.approx(-1.0, abs=1e-5)
    assert math.isnan(found["prefix/cos_head_tlgd"])
    none = gradient_figures(
        model, hand_built(model, similar=[], dissimilar=[(3, 1, 0)]), AlignConfig(rdrw=False), None
    )
    assert none["prefix/lists"] == 0.0
    assert "prefix/cancelled" not in none


# ---------------------------------------------------------------------- gradients


def batch_of(model, lists, n=3):
    kept = [x for x in lists if any(not c.is_positive for c in x.example.candidates)]
    return kept, pack([x.example.tokens for x in kept], [cut(x, n) for x in kept], model.vocab)


def by_backward(model, loss):
    """All gradients of ``loss`` as one vector, by plain backward."""
    model.zero_grad()
    loss.backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return torch.cat([p.flatten() for p in parts])


@pytest.mark.parametrize("name", ["raddpo", "raddpo-paper", "simpo", "dpo"])
def test_gradient_figures_equal_backward(model, lists, name):
    cfg, reference = AlignConfig(objective=name, rdrw=False), tiny_like(model)
    _, packed = batch_of(model, lists)

    def contrast(kind, settings):
        scores = score(model, packed)
        with torch.no_grad():
            scores.ref_logp = score(reference, packed).logp
        return objective(kind).parts(scores, settings, None)

    sft = by_backward(model, contrast("sft", cfg).sft)
    ours = by_backward(model, contrast(name, cfg).contrast)
    common = by_backward(model, contrast("raddpo", yardstick(cfg, tlgd=True)).contrast)
    found = gradient_figures(model, lists, cfg, None, reference=reference, count=100)
    assert found["gradient/ratio"] == pytest.approx(float(ours.norm() / sft.norm()), rel=1e-4)
    assert found["gradient/cosine"] == pytest.approx(
        float(ours @ sft / ours.norm() / sft.norm()), abs=1e-4
    )
    assert found["gradient/raddpo_ratio"] == pytest.approx(
        float(common.norm() / sft.norm()), rel=1e-4
    )
    assert all(p.grad is None for p in model.parameters())
    if name == "dpo":
        assert "gradient/ratio" not in gradient_figures(model, lists, cfg, None)


def test_prefix_cosines_equal_backward(model, lists):
    """Batch figures: the parts of y_w* and of the negatives, on the lists that share a first code,
    by backward.
    """
    cfg = AlignConfig(rdrw=False)
    kept, packed = batch_of(model, lists)
    found = gradient_figures(model, lists, cfg, None, count=100)
    scores = score(model, packed)
    sharing, cancelled = [], []
    for b, one in enumerate(kept):
        star = int(scores.star[b])
        r = scores.logp[b].sum(-1) / 3
        wrong = [c for c, x in enumerate(cut(one, 3)) if not x.is_positive]
        # softmax reading: hard negatives first
        q = torch.softmax(torch.stack([r[c] for c in wrong]), 0).tolist()
        same = [int(scores.tokens[b, c, 0] == scores.tokens[b, star, 0]) for c in wrong]
        if any(same):
            sharing.append(b)
            cancelled.append(sum(share for share, s in zip(q, same, strict=True) if s))
    assert 0 < len(sharing) < len(kept)
    assert 0.1 < mean(cancelled) < 0.9
    assert found["prefix/lists"] == pytest.approx(len(sharing) / len(kept))
    assert found["prefix/cancelled"] == pytest.approx(mean(cancelled), abs=1e-5)

    def part(tlgd, star):
        scores = score(model, packed)
        loss = objective("raddpo").parts(scores, yardstick(cfg, tlgd=tlgd), None).contrast
        pull = torch.autograd.grad(loss, scores.logp, retain_graph=True)[0]
        mask = torch.zeros_like(scores.is_negative)
        for b in sharing:
            mask[b] = (
                (torch.arange(mask.shape[1]) == scores.star[b]) if star else scores.is_negative[b]
            )
        return by_backward(model, (pull * mask[..., None] * scores.logp).sum())

    for end, tlgd in (("", False), ("_tlgd", True)):
        a, b = part(False, True), part(tlgd, False)
        assert found[f"prefix/cos_all{end}"] == pytest.approx(
            float(a @ b / a.norm() / b.norm()), abs=1e-4
        )
        level1 = torch.cat([_first_level(model, p).flatten() for p in model.parameters()]).bool()
        a, b = a[level1], b[level1]
        assert found[f"prefix/cos_level1{end}"] == pytest.approx(
            float(a @ b / a.norm() / b.norm()), abs=1e-4
        )


def _first_level(model, parameter):
    """1 on the rows of the first level's head and embeddings."""
    mask = torch.zeros_like(parameter)
    if parameter is model.heads[0] or parameter is model.sid_in:
        mask[:8] = 1
    return mask


@pytest.mark.parametrize("tlgd", [False, True])
def test_head_cosines_equal_backward_list_by_list(model, lists, tlgd):
    kept, _ = batch_of(model, lists)
    angles = []
    for one in kept:
        scores = score(model, pack([one.example.tokens], [cut(one, 3)], model.vocab))
        loss = objective("raddpo").parts(scores, yardstick(AlignConfig(), tlgd=tlgd), None).contrast
        positive, negatives = pulls(scores, loss)
        a, b = (
            torch.autograd.grad((pull * scores.logp).sum(), model.heads[0], retain_graph=True)[
                0
            ].flatten()
            for pull in (positive, negatives)
        )
        found = float(first_step_cosines(scores, positive, negatives)[0])
        if b.norm() < 1e-9:  # TLGD silenced every negative's first step
            assert math.isnan(found)
        else:
            assert found == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-4)
            angles.append(found)
    assert len(angles) > 5
    assert max(angles) - min(angles) > 0.1


def test_a_frozen_model_is_refused(model, lists):
    with pytest.raises(ValueError, match="frozen"):
        gradient_figures(tiny_like(model), lists, AlignConfig(rdrw=False), None)


def test_push_at_equal_scores(model):
    """n = 3, β = 2: σ(−βz) is 1/10 under print and 9/10 under softmax (docs/errata.md: pushes of .2
    and 1.8).
    """
    lists = hand_built(model, similar=[(0, 0, 1)], dissimilar=[(3, 1, 0), (4, 2, 1), (5, 0, 0)])
    truth = Truth.of(lists)
    flat = np.where(truth.positive | truth.negative, -1.0, np.nan)
    empty = np.zeros(2)
    said = Measured(flat * 3, flat, np.zeros(flat.shape, int), {}, empty, empty)
    found = push_figures(truth, said, AlignConfig(objective="raddpo-paper", rdrw=False), 3)
    assert found["contrast/push_printed"] == found["contrast/push"] == pytest.approx(0.1)
    assert found["contrast/push_softmax"] == pytest.approx(0.9)
    assert found["contrast/push_printed_saturated"] == 0.0
    strong = push_figures(
        truth, said, AlignConfig(objective="raddpo-paper", rdrw=False, beta=4.0), 3
    )
    assert strong["contrast/push"] == pytest.approx(1 / 82)
    assert strong["contrast/push_saturated"] == 1.0


@pytest.mark.parametrize("kind", ["similarity", "constant", "shuffled"])
def test_push_is_weighed_as_the_config_says(model, lists, kind):
    """Softmax, β = 2: 1 − exp(−L_PL) from weights written out, list by list; shuffling keeps the
    weights' sum.
    """
    cfg = AlignConfig(beta=2.0, rdrw_weights=kind, rdrw_constant=0.6)
    truth, said = Truth.of(lists), measure(model, lists)
    pairs = [
        (b, c) for b, x in enumerate(lists) for c in range(len(x.pseudo)) if truth.negative[b, c]
    ]
    pairs = [(b, c) for b, c in pairs if truth.negative[b, : c + 1].sum() <= 2]
    sims = {pair: said.similarity["eos_out"][pair] for pair in pairs}
    anchors = tuple(np.quantile(list(sims.values()), [0.25, 0.5, 0.75]).tolist())
    eq6 = [
        float(similarity_weight(torch.tensor(s, dtype=torch.float64), anchors))
        for s in sims.values()
    ]
    drawn = np.random.default_rng(0).permutation(eq6)
    weights = dict(
        zip(
            pairs,
            {"similarity": eq6, "constant": [0.6] * len(pairs), "shuffled": drawn}[kind],
            strict=True,
        )
    )
    pushes = []
    for b in sorted({b for b, _ in pairs}):
        star = said.reward[b, truth.star[b]]
        total = sum(weights[p] * math.exp(said.reward[p] - star) for p in pairs if p[0] == b)
        pushes.append(1 / (1 + total**-2))  # σ(−βz) with z = −log total
    found = push_figures(truth, said, cfg, 2)
    assert found["contrast/push"] == pytest.approx(mean(pushes), abs=1e-6)


def test_gradients_of_shuffled_weights_repeat_and_leave_the_random_state_alone(model, lists):
    cfg = AlignConfig(rdrw_weights="shuffled")
    said, truth = measure(model, lists), Truth.of(lists)
    before = torch.random.get_rng_state()
    runs = [
        gradient_figures(
            model, lists, cfg, window_at(said.similarity["eos_out"][taken(truth, 3)], cfg)
        )
        for _ in range(2)
    ]
    assert runs[0] == pytest.approx(runs[1], nan_ok=True)
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------------- logs


def rows_of(values):
    return [{"kind": "train", "step": 5 * i, "logp/star_first": v} for i, v in enumerate(values)]


def test_oscillation_is_the_variance_around_a_running_mean():
    values = np.random.default_rng(1).normal(size=30).tolist()
    residual = [values[i] - mean(values[max(i - 4, 0) : i + 5]) for i in range(30)]
    want = mean([(r - mean(residual)) ** 2 for r in residual])
    extra = [
        {"kind": "valid", "step": 3, "logp/star_first": 99.0},
        {"kind": "train", "step": 4, "loss": 1.0},
    ]
    assert oscillation(extra + rows_of(values)) == pytest.approx(want)
    assert oscillation(rows_of([2.0] * 30)) == 0.0
    assert math.isnan(oscillation(rows_of([1.0, 2.0])))
