"""The paths that run on a GPU, held to the same on a CPU.

``SIDAR_TEST_DEVICE=cuda pytest -m device`` runs them there; without it they run on the CPU, where a
graph is a second run into the same memory.
"""

import copy
import os

import numpy as np
import pytest
import reference_decode as slow
import torch
from models_decode import TEXT, small

from sidar.align import objective
from sidar.config import AlignConfig
from sidar.decode import Trie, beam_search, sample
from sidar.index import PrefixIndex
from sidar.lm import Candidate, pack, score
from sidar.lm.scorer import LmScorer

pytestmark = pytest.mark.device
DEVICE = os.environ.get("SIDAR_TEST_DEVICE", "cpu")
SIZES = (7, 5, 4)
PROMPTS = [[3, 9, 27], [5, 1, 1, 8, TEXT + 2, TEXT + 9, 30], [11], [5, 1, 1, 8, 30, 12, 2, 39]]


def some_index(variable=False):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 4, 60) if variable else [3] * 60
    tuples = [tuple(int(rng.integers(k)) for k in SIZES[:length]) for length in lengths]
    return PrefixIndex.build(slow.sid_table(tuples, SIZES))


def both(**options):
    """One model on the CPU and on the device."""
    model = small(**options).eval()
    return model, copy.deepcopy(model).to(DEVICE)


def same_beams(ours, theirs, atol=1e-4):
    assert np.array_equal(ours.sids, theirs.sids)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=atol)


@pytest.mark.parametrize("engine", ["lean", "graphs", "tree"])
@pytest.mark.parametrize("variable", [False, True])
def test_a_search_on_the_device_is_the_one_on_the_cpu(engine, variable):
    here, there = both(variable=variable, family="qwen3-gqa-bias")
    index = some_index(variable)
    scorer, trie = LmScorer(there, engine=engine), Trie(index, DEVICE)
    for prompts in (PROMPTS, PROMPTS[:1], PROMPTS):
        want = beam_search(LmScorer(here, engine="tree"), prompts, index, 12)
        same_beams(beam_search(scorer, prompts, trie, 12), want)


def test_recorded_steps_are_used_again_and_only_the_latest_search_goes_on():
    _, model = both()
    scorer = LmScorer(model, engine="graphs")
    trie = Trie(some_index(), DEVICE)
    want = [beam_search(LmScorer(model), PROMPTS, trie, width) for width in (12, 5)]
    for _ in range(2):
        same_beams(beam_search(scorer, PROMPTS, trie, 12), want[0])
        same_beams(beam_search(scorer, PROMPTS, trie, 5), want[1])
    # one prefill, and two steps of each width
    assert scorer.engine._count == 5
    first = scorer.prefill(PROMPTS)
    scorer.prefill(PROMPTS)
    codes = torch.zeros(len(PROMPTS), 3, dtype=torch.long, device=DEVICE)
    with pytest.raises(RuntimeError, match="another search has begun"):
        scorer.extend(first, codes, codes, 1)


def test_a_step_may_be_taken_again_after_deeper_ones():
    _, model = both()
    plain, static = LmScorer(model), LmScorer(model, engine="graphs")
    states = [scorer.prefill(PROMPTS) for scorer in (static, plain)]
    generator = torch.Generator().manual_seed(0)
    for depth, width in ((1, 4), (2, 6), (2, 3), (1, 4), (2, 6)):
        above = 1 if depth == 1 else 4
        parents = torch.randint(above, (len(PROMPTS), width), generator=generator).to(DEVICE)
        codes = torch.randint(SIZES[depth - 1], parents.shape, generator=generator).to(DEVICE)
        ours, theirs = (
            scorer.extend(state, parents, codes, depth)
            for scorer, state in zip((static, plain), states, strict=True)
        )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_refreshed_weights_are_recorded_anew():
    _, model = both()
    scorer, trie = LmScorer(model, engine="graphs"), Trie(some_index(), DEVICE)
    beam_search(scorer, PROMPTS, trie, 12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    scorer.refresh()
    same_beams(
        beam_search(scorer, PROMPTS, trie, 12), beam_search(LmScorer(model), PROMPTS, trie, 12)
    )


def test_rollouts_on_the_device_are_valid_different_and_repeat():
    _, model = both()
    index = some_index()
    draws = [sample(LmScorer(model), PROMPTS, Trie(index, DEVICE), 6, step=3) for _ in range(2)]
    assert np.array_equal(draws[0].sids, draws[1].sids)
    assert (draws[0].sids >= 0).all()
    assert all(len(set(group)) == 6 for group in draws[0].sids.tolist())
    assert (index.lookup(draws[0].codes.reshape(-1, 3)) == draws[0].sids.flatten()).all()


def test_a_packed_step_has_the_loss_and_gradients_of_the_cpu():
    cfg = AlignConfig(objective="simpo")
    lists = [
        [Candidate((i, (i + 1) % 5, i % 4), i == 0, int(i == 0)) for i in range(n)]
        for n in (3, 4, 2, 5)
    ]
    results = []
    for model in both():
        scores = score(model, pack(PROMPTS, lists, model.vocab).to(model.device))
        loss, _ = objective("simpo").loss(scores, cfg)
        loss.backward()
        results.append((loss.detach().cpu(), [p.grad.cpu() for p in model.heads]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
