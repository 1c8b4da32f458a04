"""Rollouts of a language model: log-probs as training computes them, and weights that follow it."""

import dataclasses

import numpy as np
import pytest
import reference_decode as slow
import torch
import toy_geometry as toy
from models_decode import TEXT, small

from sidar.decode import METHODS, sample
from sidar.index import PrefixIndex
from sidar.lm.packing import Candidate, pack, score
from sidar.lm.scorer import LmScorer

SIZES = (7, 5, 4)
PROMPTS = [[3, 9, 27], [5, 1, 1, 8, TEXT + 2, TEXT + 9, 30], [11], [5, 1, 1, 8, 30, 12, 2, 39]]


def index_of(variable, n=60, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 4, n) if variable else np.full(n, 3)
    tuples = [tuple(int(rng.integers(k)) for k in SIZES[:length]) for length in lengths]
    return PrefixIndex.build(slow.sid_table(tuples, SIZES))


def check_teacher_forced(model, prompts, rollouts):
    """Every output that a packed forward can score has the log-probs of that forward."""
    listed, asked, rows = [], [], []
    written = zip(prompts, rollouts.codes.tolist(), rollouts.lengths.tolist(), strict=True)
    for row, (prompt, codes, lengths) in enumerate(written):
        # a free output of text tokens, or that begins with EOS, is nothing that can be packed
        fit = [i for i, n in enumerate(lengths) if n > 0 and min(codes[i][:n]) >= 0]
        if fit:
            rows.append((row, fit))
            asked.append(prompt)
            listed.append([Candidate(tuple(codes[i][: lengths[i]])) for i in fit])
    assert rows
    with torch.no_grad():
        scores = score(model, pack(asked, listed, model.vocab))
    for at, (row, fit) in enumerate(rows):
        steps = (scores.logp * scores.mask)[at, : len(fit)]
        written = torch.from_numpy(rollouts.level_logp[row][fit])
        torch.testing.assert_close(written, steps, atol=5e-5, rtol=1e-5)
        total = torch.from_numpy(rollouts.logp[row][fit])
        torch.testing.assert_close(total, steps.double().sum(-1), atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("head", ["level", "full"])
def test_log_probs_are_those_of_a_teacher_forced_pass(head, variable, method):
    model, index = small(head=head, variable=variable), index_of(variable)
    group = 500 if method == "free" and head == "full" else 12  # most of them hold text
    for engine in ("lean", "tree"):
        scorer = LmScorer(model, engine=engine)
        rollouts = sample(scorer, PROMPTS, index, group, method=method, temperature=1.5)
        check_teacher_forced(model, PROMPTS, rollouts)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variable", [False, True])
def test_log_probs_at_the_geometry_are_those_of_a_teacher_forced_pass(variable, method):
    model, index = toy.trained(variable), PrefixIndex.build(toy.some(variable))
    rollouts = sample(LmScorer(model), toy.prompts(), index, 12, method=method)
    check_teacher_forced(model, toy.prompts(), rollouts)
    if method == "gumbel":
        assert all(len(set(row)) == 12 for row in rollouts.sids.tolist())


def test_free_draws_of_a_full_head_write_text_and_ends_too():
    model, index = small(head="full", variable=True), index_of(True)
    rollouts = sample(LmScorer(model), PROMPTS * 20, index, 12, method="free", seed=1)
    inside = np.arange(3) < rollouts.lengths[:, :, None]
    strange = (inside & (rollouts.codes < 0)).any(-1)
    assert strange.any()
    assert (rollouts.lengths == 0).any()
    assert (rollouts.sids >= 0).any()
    assert (rollouts.sids[strange | (rollouts.lengths == 0)] == -1).all()
    fine = ~strange & (rollouts.lengths > 0)
    np.testing.assert_array_equal(rollouts.sids[fine], index.lookup(rollouts.codes[fine]))
    assert np.isfinite(rollouts.logp).all()


def moved(model, seed=1):
    """Move every weight of ``model`` in place, as an optimizer does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def memory(scorer):
    """Where the fused weights of a scorer are."""
    tensors = [scorer._sid_in, *scorer._heads]
    for block in getattr(scorer.engine, "blocks", ()):
        tensors += [block.qkv.weight, block.gate_up.weight]
    return [tensor.data_ptr() for tensor in tensors]


CASES = {
    "lean": ({}, {}),
    "lean full": ({"head": "full", "variable": True}, {}),
    "lean bf16": ({"variable": True}, {"precision": "bf16"}),
    "adapters": ({"lora": True}, {}),
    "biases": ({"family": "qwen3-gqa-bias"}, {}),
    "tree": ({"variable": True}, {"engine": "tree"}),
    "tree full": ({"head": "full"}, {"engine": "tree"}),
    "geometry": (None, {}),
    "geometry tree": (None, {"engine": "tree"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refreshed_scorer_is_a_new_one(case):
    settings, engine = CASES[case]
    if settings is None:
        model, index, prompts = toy.trained(), PrefixIndex.build(toy.some()), toy.prompts()
    else:
        model = small(**settings)
        index, prompts = index_of(settings.get("variable", False)), PROMPTS

    def drawn(scorer):
        return dataclasses.asdict(sample(scorer, prompts, index, 9))

    scorer = LmScorer(model, **engine)
    before, places = drawn(scorer), memory(scorer)
    moved(model)
    scorer.refresh()
    assert memory(scorer) == places
    after, new = drawn(scorer), drawn(LmScorer(model, **engine))
    assert (after["logp"] != before["logp"]).any()
    for name, values in new.items():
        np.testing.assert_array_equal(after[name], values, strict=True)


def test_without_a_refresh_the_weights_are_the_old_ones():
    """The test above would not see a refresh that does nothing if a scorer read everything live."""
    model, index = small(), index_of(False)
    scorer = LmScorer(model)
    moved(model)
    stale = sample(scorer, PROMPTS, index, 9)
    assert (stale.logp != sample(LmScorer(model), PROMPTS, index, 9).logp).any()
