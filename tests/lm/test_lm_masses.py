"""The prior's first code: block by block as in one piece, and in two stages near the exact one."""

import json

import numpy as np
import pytest
import torch
from reference_decode import sid_table
from toy_geometry import SIZES, TEXTS, books, build, prompts, some, trained, unit

from sidar.decode import score_all
from sidar.index import PrefixIndex
from sidar.lm import Candidate, SidLM, pack, score
from sidar.lm.prior import legal, masses
from sidar.lm.prior.legal import Legal
from sidar.lm.prior.masses import FirstMasses
from sidar.lm.scorer import LmScorer


def in_one_piece(known, scores):
    """The definition, with a table of SIDs × prompts."""
    leaf = (scores[known.codes.long()] * known.weights[..., None]).sum(1)
    rows = known.first_of.long()
    return torch.stack([leaf[rows == p].logsumexp(0) for p in range(len(known.count[1]))])


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize(("block", "group"), [(1, 1), (64 * 3, 20), (1 << 17, 1 << 16)])
def test_blocks_give_the_same_masses_and_gradients(monkeypatch, variable, block, group):
    monkeypatch.setitem(masses.BLOCK, "cpu", block)
    monkeypatch.setattr(masses, "LEAST", 1)
    monkeypatch.setattr(legal, "GROUP", group)
    known = Legal(PrefixIndex.build(some(variable)), np.concatenate(books()))
    generator = torch.Generator().manual_seed(1)
    scores = (3 * torch.randn(sum(SIZES), 5, generator=generator)).requires_grad_()
    upstream = torch.randn(len(known.count[1]), 5, generator=generator)
    fast, slow = FirstMasses.apply(scores, known), in_one_piece(known, scores)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    got, want = (torch.autograd.grad(x, scores, upstream)[0] for x in (fast, slow))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def two_stage(model, table, top, exact=1):
    model.geometry.exact, model.geometry.top = exact, top
    model.use(PrefixIndex.build(table))
    return model


@pytest.mark.parametrize("variable", [False, True])
def test_two_stages_are_exact_where_every_first_code_is_expanded(variable):
    table = some(variable)
    want = score_all(LmScorer(trained(variable)), prompts(), PrefixIndex.build(table))
    found = score_all(
        LmScorer(two_stage(trained(variable), table, top=6)), prompts(), PrefixIndex.build(table)
    )
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variable", [False, True])
def test_two_stages_are_a_distribution_the_same_in_training_and_search(variable):
    table, index = some(variable), PrefixIndex.build(some(variable))
    model = two_stage(trained(variable), table, top=2)
    prior = model.geometry.prior(torch.from_numpy(unit()))
    each = [prior.logits(0, torch.zeros(3, dtype=torch.long), torch.arange(3), False)]
    each += [
        prior.logits(d, torch.arange(n).repeat(3), torch.arange(3).repeat_interleave(n), variable)
        for d, n in ((1, index.n_prefixes[1]), (2, index.n_prefixes[2]))
    ]
    for depth, logits in enumerate(each):  # a prefix that is an SID without children has EOS alone
        sums = (logits / model.geometry.strength[depth]).exp().sum(1)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
    searched = score_all(LmScorer(model), prompts(), index)
    for y in (0, 7, len(index) - 1):
        codes = tuple(int(c) for c in index.table[y] if c >= 0)
        packed = pack(prompts(), [[Candidate(codes)]] * len(TEXTS), model.vocab)
        packed_logp = score(model, packed).logp.double().sum(-1)[:, 0]
        torch.testing.assert_close(packed_logp, searched[:, y], atol=1e-4, rtol=1e-4)


def test_the_estimate_is_near_and_exact_below_the_first_code():
    """At step 0, with one exact first code of six; the rest of the mass is a Gaussian's."""
    table = some(n=90)
    index = PrefixIndex.build(table)
    exact, staged = build(table), two_stage(build(table), table, top=1)
    for model in (exact, staged):
        model.use(index)
        with torch.no_grad():
            model.geometry.log_gate.fill_(np.log(6.0))
    q = torch.from_numpy(unit(20))
    a, b = (m.geometry.prior(q).first.detach().log_softmax(0) for m in (exact, staged))
    assert float((a - b).abs().mean()) < 0.2
    chosen = b.argmax(0)
    assert float((a.argmax(0) == chosen).float().mean()) > 0.9
    below = [
        m.geometry.prior(q).logits(1, torch.arange(6), torch.arange(6), False)
        for m in (exact, staged)
    ]
    assert torch.equal(*below)


def test_two_stages_reach_every_part_of_the_prior():
    model = two_stage(trained(), some(), top=1)
    packed = pack(
        prompts(), [[Candidate(some().tuple_of(row))] for row in (0, 11, 30)], model.vocab
    )
    score(model, packed).logp.sum().backward()
    for name in ("query", "log_gate", "strength", "codes.0", "codes.1", "codes.2"):
        gradient = model.geometry.get_parameter(name).grad
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0, name


def test_a_prefix_of_one_sid_has_no_spread():
    table = sid_table([(0, 1, 2), (3, 0, 1), (4, 4, 3)], SIZES)
    model = two_stage(build(table), table, top=1)
    prior = model.geometry.prior(torch.from_numpy(unit()))
    exact = build(table).geometry.prior(torch.from_numpy(unit()))
    torch.testing.assert_close(prior.first, exact.first, atol=1e-4, rtol=1e-4)
    prior.first.sum().backward()
    assert all(
        torch.isfinite(p.grad).all() for p in model.geometry.parameters() if p.grad is not None
    )


def test_models_of_before_answer_as_before(tmp_path):
    """Their config has no threshold, so that their first code stays exact for an
    index of any size.
    """
    model, index = build(geometry_exact=10, geometry_top=1), PrefixIndex.build(some())
    model.save_pretrained(tmp_path)
    again = SidLM.from_pretrained(tmp_path)
    assert (again.geometry.exact, again.geometry.top) == (10, 1)
    about = json.loads((tmp_path / "config.json").read_text())
    del about["geometry_exact"], about["geometry_top"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    before = SidLM.from_pretrained(tmp_path)
    for one in (again, before):
        one.use(index)
    staged, exact = (score_all(LmScorer(m), prompts(), index) for m in (again, before))
    assert torch.equal(exact, score_all(LmScorer(build()), prompts(), index))
    assert not torch.allclose(staged, exact)
