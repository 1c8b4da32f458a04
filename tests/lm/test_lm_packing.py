from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from reference_lm import score_one

from sidar.lm import Candidate, SidLM, SidVocab, pack, score, unpadded
from sidar.types import CandidateScores

SIZES = (16, 8, 8)
Build = Callable[..., SidLM]


def random_lists(
    model: SidLM, seed: int, prompts: int = 4
) -> tuple[list[list[int]], list[list[Candidate]]]:
    """Prompts of unequal length with SID tokens in them, and candidates that often
    share prefixes.
    """
    rng = np.random.default_rng(seed)
    vocab = model.vocab
    texts = [
        rng.integers(0, vocab.text_vocab + vocab.eos, n).tolist()
        for n in rng.integers(1, 12, prompts)
    ]
    lists = []
    for _ in texts:
        listed = []
        for i in range(int(rng.integers(1, 9))):
            length = int(rng.integers(1, 4)) if vocab.variable_length else 3
            listed.append(
                Candidate(
                    tuple(int(rng.integers(min(k, 3))) for k in SIZES[:length]), i == 0, int(i == 0)
                )
            )
        lists.append(listed)
    return texts, lists


def assert_equals_one_by_one(
    model: SidLM, prompts: list, lists: list, scores: CandidateScores, atol: float
) -> None:
    for b, (prompt, listed) in enumerate(zip(prompts, lists, strict=True)):
        for c, candidate in enumerate(listed):
            steps, eos, state = score_one(model, prompt, candidate)
            assert int(scores.mask[b, c].sum()) == len(steps)
            torch.testing.assert_close(
                scores.logp[b, c, : len(steps)], torch.stack(steps), atol=atol, rtol=0
            )
            torch.testing.assert_close(scores.eos_logp[b, c], eos, atol=atol, rtol=0)
            torch.testing.assert_close(scores.hidden[b, c], state, atol=10 * atol, rtol=0)
        assert not scores.logp[b, len(listed) :].any()
        assert not (scores.is_positive | scores.is_negative)[b, len(listed) :].any()


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("variable_length", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
def test_packed_equals_one_by_one(
    tiny: Build, family: str, attention: str, variable_length: bool, side: str
) -> None:
    model = tiny(family, variable_length, attention=attention)
    prompts, lists = random_lists(model, seed=1)
    scores = score(model, pack(prompts, lists, model.vocab, side=side), "eos_out")
    assert_equals_one_by_one(model, prompts, lists, scores, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_full_head_counts_text_in_its_softmax(tiny: Build, family: str) -> None:
    model = tiny(family, True, head="full")
    assert (model.text_head is None) == (family == "qwen3")  # tied and untied text heads
    prompts, lists = random_lists(model, seed=2)
    scores = score(model, pack(prompts, lists, model.vocab), "eos_out")
    assert_equals_one_by_one(model, prompts, lists, scores, atol=1e-5)
    hidden = torch.randn(3, model.hidden_size)
    # not renormalised to the level
    assert (model.level_logp(hidden, 1).exp().sum(-1) < 1 - 1e-3).all()


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_gradients_equal_one_by_one(tiny: Build, family: str, attention: str) -> None:
    model = tiny(family, attention=attention)
    prompts, lists = random_lists(model, seed=3)
    scores = score(model, pack(prompts, lists, model.vocab), "eos_out")
    # some direction: a norm's output has a nearly constant length
    probe = torch.linspace(-1, 1, model.hidden_size)
    real = scores.is_positive | scores.is_negative
    (scores.logp.sum() + scores.eos_logp.sum() + (scores.hidden[real] @ probe).sum()).backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for prompt, listed in zip(prompts, lists, strict=True):
        for candidate in listed:
            steps, eos, state = score_one(model, prompt, candidate)
            (torch.stack(steps).sum() + eos + state @ probe).backward()
    alone = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert packed.keys() == alone.keys()
    for name, grad in alone.items():
        scale = float(grad.abs().max())
        assert float((packed[name] - grad).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_short_way_equals_the_transformers_module(
    tiny: Build, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(family)
    prompts, lists = random_lists(model, seed=4)
    packed = pack(prompts, lists, model.vocab, side="left")
    fast = score(model, packed, "eos_out")
    monkeypatch.setattr(unpadded, "fits", lambda decoder: False)
    slow = score(model, packed, "eos_out")
    torch.testing.assert_close(fast.logp, slow.logp, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.hidden, slow.hidden, atol=1e-4, rtol=0)


def test_bf16_autocast_is_close_and_scores_stay_fp32(tiny: Build) -> None:
    model = tiny("qwen3")
    prompts, lists = random_lists(model, seed=5)
    packed = pack(prompts, lists, model.vocab)
    exact = score(model, packed)
    with torch.autocast("cpu", torch.bfloat16):
        rough = score(model, packed)
    assert rough.logp.dtype == torch.float32
    torch.testing.assert_close(rough.logp, exact.logp, atol=0.2, rtol=0.05)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10_000),
    variable_length=st.booleans(),
    side=st.sampled_from(["right", "left"]),
)
def test_random_tries(tiny: Build, seed: int, variable_length: bool, side: str) -> None:
    model = CACHE.setdefault(variable_length, tiny("qwen3", variable_length))
    prompts, lists = random_lists(model, seed, prompts=2)
    packed = pack(prompts, lists, model.vocab, side=side)
    scores = score(model, packed, "eos_out")
    assert_equals_one_by_one(model, prompts, lists, scores, atol=1e-5)
    prefixes = [
        {c.codes[:d] for c in listed for d in range(1, len(c.codes) + 1)} for listed in lists
    ]
    # each prefix takes one token
    assert len(packed.real) == sum(map(len, prompts)) + sum(map(len, prefixes))


CACHE: dict[bool, SidLM] = {}


def test_permuting_candidates_permutes_outputs(tiny: Build) -> None:
    model = tiny("llama", True)
    prompts, lists = random_lists(model, seed=6)
    orders = [np.random.default_rng(b).permutation(len(listed)) for b, listed in enumerate(lists)]
    straight = score(model, pack(prompts, lists, model.vocab))
    mixed = score(
        model,
        pack(prompts, [[x[i] for i in o] for x, o in zip(lists, orders, strict=True)], model.vocab),
    )
    for b, order in enumerate(orders):
        torch.testing.assert_close(
            mixed.logp[b, : len(order)], straight.logp[b, order], atol=1e-5, rtol=0
        )


def test_another_candidate_changes_no_bit_of_this_one(tiny: Build) -> None:
    model = tiny("qwen3")
    prompt, first = [5, 6, 7], Candidate((1, 2, 3), True, 1)
    one = score(
        model,
        pack([prompt], [[first, Candidate((4, 5, 6)), Candidate((1, 0, 0))]], model.vocab),
        "eos_out",
    )
    two = score(
        model,
        pack([prompt], [[first, Candidate((0, 7, 1)), Candidate((1, 0, 0))]], model.vocab),
        "eos_out",
    )
    assert torch.equal(one.logp[0, 0], two.logp[0, 0])
    assert torch.equal(one.hidden[0, 0], two.hidden[0, 0])
    assert not torch.equal(one.logp[0, 1], two.logp[0, 1])


def test_star_is_the_first_listed_of_the_top_tier(tiny: Build) -> None:
    model = tiny("qwen3")
    listed = [
        Candidate((1, 1, 1), True, 1),
        Candidate((2, 2, 2), True, 3),
        Candidate((3, 3, 3), True, 3),
    ]
    listed.append(Candidate((4, 4, 4)))
    scores = score(model, pack([[1], [1]], [listed, [Candidate((5, 5, 5))]], model.vocab))
    assert scores.star.tolist() == [1, 0]
    assert scores.is_negative.tolist() == [[False, False, False, True], [True, False, False, False]]
    assert scores.tier[0].tolist() == [1, 3, 3, 0]


def test_eos_conventions(tiny: Build) -> None:
    fixed, free = tiny("qwen3"), tiny("qwen3", True)
    eos, full = fixed.vocab.eos, Candidate((1, 2, 3), True, 1)
    scores = score(fixed, pack([[1, 2]], [[full]], fixed.vocab))
    assert scores.tokens[0, 0].tolist() == [1, 16 + 2, 24 + 3, eos]
    # the end of a fixed length is certain …
    assert scores.mask[0, 0].tolist() == [True, True, True, False]
    assert scores.eos_logp[0, 0] < 0  # … but trained
    scores = score(free, pack([[1, 2]], [[full, Candidate((1, 2))]], free.vocab))
    assert scores.mask[0].tolist() == [[True, True, True, False], [True, True, True, False]]
    assert scores.tokens[0, 1].tolist() == [1, 16 + 2, eos, -1]
    assert scores.eos_logp[0, 0] < 0  # after L codes the end is certain here as well
    assert scores.eos_logp[0, 1] == 0  # counted as a step already
    ends = free.level_logp(torch.randn(1, free.hidden_size), 2)
    assert ends.shape[-1] == SIZES[2] + 1
    assert float(ends.detach().exp().sum()) == pytest.approx(1)


def test_probabilities_of_all_sids_sum_to_one(tiny: Build) -> None:
    model = tiny("llama", True)
    sids = [(a,) for a in range(16)] + [(a, b) for a in range(16) for b in range(8)]
    sids += [(a, b, c) for a in range(16) for b in range(8) for c in range(8)]
    scores = score(model, pack([[3, 1, 4]], [[Candidate(s) for s in sids]], model.vocab))
    assert float(scores.logp.detach().sum(-1).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_rdrw_states(tiny: Build) -> None:
    model = tiny("qwen3")
    packed = pack([[1, 2, 3]], [[Candidate((1, 2, 3), True, 1), Candidate((1, 2, 4))]], model.vocab)
    last_code = score(model, packed, "last_code").hidden[0]
    # the state that outputs the last code is the shared prefix's
    assert torch.equal(last_code[0], last_code[1])
    eos_out = score(model, packed, "eos_out").hidden[0]
    assert not torch.equal(eos_out[0], eos_out[1])
    items = score(model, packed, "item_vector").hidden[0]
    torch.testing.assert_close(items[0], model.sid_in[[1, 16 + 2, 24 + 3]].sum(0))
    assert not items.requires_grad
    assert score(model, packed).hidden is None
    first = score(model, packed).first_logp
    assert first.shape == (1, 16)
    assert float(first.exp().sum()) == pytest.approx(1, abs=1e-5)


VOCAB = SidVocab(SIZES, text_vocab=100)


@pytest.mark.parametrize(
    ("prompts", "lists", "says"),
    [
        ([[1]], [[Candidate((1, 2, 8))]], r"prompt 0, candidate 0: SID \(1, 2, 8\)"),
        (
            [[1]],
            [[Candidate((1, 2, 3)), Candidate((1, 2))]],
            r"prompt 0, candidate 1: SID \(1, 2\)",
        ),
        ([[1], []], [[Candidate((1, 2, 3))]] * 2, "prompt 1 has 0 tokens"),
        ([[1], [2]], [[Candidate((1, 2, 3))], []], "prompt 1 has 1 tokens and 0 candidates"),
        ([[1]], [], "1 prompts, 0 candidate lists"),
    ],
)
def test_what_cannot_be_packed_is_named(prompts: list, lists: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pack(prompts, lists, VOCAB)


def test_empty_sid_is_refused_where_lengths_vary() -> None:
    with pytest.raises(ValueError, match="is not 1 … 3 codes"):
        pack([[1]], [[Candidate(())]], replace(VOCAB, variable_length=True))


def test_weights_travel_to_the_scores(tiny: Build) -> None:
    model = tiny("qwen3")
    lists = [
        [Candidate((1, 2, 3), True, 1, 2.5), Candidate((1, 2, 4), weight=0.5)],
        [Candidate((5, 5, 5), True, 1)],
    ]
    packed = pack([[1], [2]], lists, model.vocab)
    assert packed.weight.tolist() == [[2.5, 0.5], [1.0, 1.0]]
    assert score(model, packed.to("cpu")).weight.tolist() == [[2.5, 0.5], [1.0, 1.0]]
    plain = pack([[2]], [lists[1]], model.vocab)
    assert plain.weight is None
    assert score(model, plain).weight is None


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    lists = [
        [Candidate((1, 2, 3), True, 1)],
        [Candidate((1, 2, 3), True, 1), Candidate((1, 2, 4), weight=weight)],
    ]
    with pytest.raises(ValueError, match=r"prompt 1, candidate 1: weight .* leave a candidate out"):
        pack([[1], [2]], lists, VOCAB)
