"""LmScorer: the lean forward against the whole module, packing, tables and transformers' own
constrained generate.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference_decode as slow
import torch
from models_decode import FAMILIES, TEXT, causal_twin, small

from sidar.decode import (
    TableScorer,
    beam_search,
    exact_search,
    free_beam_search,
    invalid_mass,
    kind_shares,
    score_all,
)
from sidar.index import PrefixIndex
from sidar.lm.beams.products import Int8
from sidar.lm.packing import Candidate, pack, score
from sidar.lm.scorer import LmScorer

SIZES = (7, 5, 4)
PROMPTS = [[3, 9, 27], [5, 1, 1, 8, TEXT + 2, TEXT + 9, 30], [11], [5, 1, 1, 8, 30, 12, 2, 39]]


def some_index(*, variable, n=60, seed=0, sizes=SIZES):
    rng = np.random.default_rng(seed)
    tuples = [
        tuple(
            int(rng.integers(k))
            for k in sizes[: rng.integers(1, len(sizes) + 1) if variable else len(sizes)]
        )
        for _ in range(n)
    ]
    return PrefixIndex.build(slow.sid_table(tuples, sizes))


def walk(scorer, rows=9, seed=0):
    """All log-probs of a random walk down the levels, with parents that are not in order."""
    generator = torch.Generator().manual_seed(seed)
    state = scorer.prefill(PROMPTS)
    found = [scorer.first(state)]
    width = 1
    for depth in range(1, len(scorer.codebook_sizes)):
        parents = torch.randint(width, (len(PROMPTS), rows - depth), generator=generator)
        codes = torch.randint(scorer.codebook_sizes[depth - 1], parents.shape, generator=generator)
        found.append(scorer.extend(state, parents, codes, depth))
        width = parents.shape[1]
    return found


@pytest.mark.parametrize("head", ["level", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_equals_the_full_forward(family, head):
    model = small(
        family, head=head, variable=head == "level", sizes=(7, 5, 4, 3), tied=family != "llama"
    )
    fast, twin = LmScorer(model), LmScorer(model, engine="tree")
    assert type(fast.engine).__name__ == "LeanDecoder"
    for ours, theirs in zip(walk(fast), walk(twin), strict=True):
        assert theirs.std() > 0.5
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_columns_are_proper_distributions():
    for logp in walk(LmScorer(small(variable=True))):
        torch.testing.assert_close(logp.exp().sum(-1), torch.ones(logp.shape[:-1]))
    state = (scorer := LmScorer(small(head="full", variable=True))).prefill(PROMPTS)
    codes = torch.zeros(len(PROMPTS), 2, dtype=torch.long)
    free = scorer.free_extend(state, codes, codes + TEXT, 1)
    torch.testing.assert_close(free.exp().sum(-1), torch.ones(free.shape[:-1]))
    names, eos = scorer.free_columns(1)
    inside = torch.cat([free[..., names >= 0], free[..., eos, None]], -1)
    torch.testing.assert_close(inside, scorer.extend(state, codes, codes, 1))


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("head", ["level", "full"])
def test_beams_score_as_packing_does(head, variable):
    model, index = small(head=head, variable=variable), some_index(variable=variable)
    beams = beam_search(LmScorer(model), PROMPTS, index, 12)
    listed = [
        [Candidate(tuple(c for c in sid if c >= 0)) for sid in query]
        for query in beams.codes.tolist()
    ]
    scores = score(model, pack(PROMPTS, listed, model.vocab))
    torch.testing.assert_close(
        scores.logp, torch.from_numpy(beams.level_logp), atol=1e-5, rtol=1e-5
    )
    total = (scores.logp * scores.mask).sum(-1).double()
    torch.testing.assert_close(total, torch.from_numpy(beams.scores), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variable", [False, True])
def test_a_table_of_the_models_log_probs_gives_the_same_search(variable):
    scorer, index = LmScorer(small(variable=variable)), some_index(variable=variable)
    state = scorer.prefill(PROMPTS)
    tables, nodes = [scorer.first(state)[:, None]], 1
    for depth in (1, 2):
        above, nodes = nodes, nodes * SIZES[depth - 1]
        node = torch.arange(nodes).expand(len(PROMPTS), nodes)
        parents = node // SIZES[depth - 1] if above > 1 else torch.zeros_like(node)
        tables.append(scorer.extend(state, parents, node % SIZES[depth - 1], depth))
    table, at = TableScorer(tables, SIZES, variable), [[i] for i in range(len(PROMPTS))]
    for ours, theirs in (
        (beam_search(scorer, PROMPTS, index, 9), beam_search(table, at, index, 9)),
        (exact_search(scorer, PROMPTS, index, 7, rows=4), exact_search(table, at, index, 7)),
    ):
        np.testing.assert_array_equal(ours.sids, theirs.sids)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5, rtol=2e-6)
    torch.testing.assert_close(
        score_all(scorer, PROMPTS, index, rows=5), score_all(table, at, index), atol=1e-5, rtol=2e-6
    )
    np.testing.assert_allclose(
        invalid_mass(scorer, PROMPTS, index), invalid_mass(table, at, index), atol=1e-6
    )


@pytest.mark.parametrize("head", ["level", "full"])
def test_a_batch_equals_one_at_a_time(head):
    scorer, index = LmScorer(small(head=head)), some_index(variable=False)
    together = beam_search(scorer, PROMPTS, index, 16, batch=4)
    free = free_beam_search(scorer, PROMPTS, index, 16, batch=4)
    for query, prompt in enumerate(PROMPTS):
        alone = beam_search(scorer, [prompt], index, 16)
        np.testing.assert_array_equal(together.sids[query], alone.sids[0])
        np.testing.assert_allclose(together.scores[query], alone.scores[0], atol=2e-5)
        alone = free_beam_search(scorer, [prompt], index, 16)
        np.testing.assert_array_equal(free.codes[query], alone.codes[0])
        np.testing.assert_array_equal(free.kind[query], alone.kind[0])


def test_one_scorer_serves_many_threads():
    scorer, index = LmScorer(small()), some_index(variable=False)
    want = [beam_search(scorer, [prompt], index, 8).sids.tolist() for prompt in PROMPTS]
    with ThreadPoolExecutor(4) as pool:
        got = list(
            pool.map(
                lambda prompt: beam_search(scorer, [prompt], index, 8).sids.tolist(), PROMPTS * 8
            )
        )
    assert got == want * 8


def test_lora_is_merged():
    model = small("qwen2", lora=True)
    assert any("lora" in name for name, _ in model.named_parameters())
    for ours, theirs in zip(
        walk(LmScorer(model, engine="lean")), walk(LmScorer(model, engine="tree")), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_bf16_is_close_and_does_not_tie():
    model, index = small(), some_index(variable=False)
    for engine in ("lean", "tree"):
        for exact, rounded in zip(
            walk(LmScorer(model)),
            walk(LmScorer(model, precision="bf16", engine=engine)),
            strict=True,
        ):
            assert rounded.dtype == torch.float32
            assert (exact - rounded).abs().mean() < 0.1
    beams = beam_search(LmScorer(model, precision="bf16"), PROMPTS, index, 30)
    assert all(len(set(scores)) == len(scores) for scores in beams.scores.tolist())


@pytest.mark.parametrize("tied", [True, False])
def test_constrained_search_equals_transformers_generate(tied):
    model, index, width = small(head="full", tied=tied), some_index(variable=False, n=90), 12
    if not tied:
        with torch.no_grad():
            model.text_head.normal_()
    scorer, twin = LmScorer(model), causal_twin(model)
    vocab, children = model.vocab, {}
    for sid in index.table.tolist():
        tokens = [TEXT + token for token in vocab.tokens(sid)]
        for depth in range(3):
            children.setdefault(tuple(tokens[:depth]), set()).add(tokens[depth])
    for prompt in PROMPTS:
        out = twin.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            prefix_allowed_tokens_fn=lambda _, ids, p=len(prompt): sorted(
                children[tuple(ids[p:].tolist())]
            ),
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=3,
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        beams = beam_search(scorer, [prompt], index, width)
        want = [[TEXT + token for token in vocab.tokens(sid)] for sid in beams.codes[0].tolist()]
        assert out.sequences[:, len(prompt) :].tolist() == want
        np.testing.assert_allclose(beams.scores[0], out.sequences_scores, rtol=2e-6)


@pytest.mark.parametrize("variable", [False, True])
def test_free_beams_of_a_full_head_tell_both_kinds_of_invalid(variable):
    model, sizes = small(head="full", sizes=(3, 2), variable=variable), (3, 2)
    sids = [(0, 1), (2,), (2, 0)] if variable else [(0, 1), (2, 0), (1, 1)]
    index = PrefixIndex.build(slow.sid_table(sids, sizes))
    scorer, prompts = LmScorer(model), [PROMPTS[0], PROMPTS[2]]
    vocabulary = TEXT + model.vocab.size
    # everything that two tokens can be
    free = free_beam_search(scorer, prompts, index, vocabulary**2)
    some = free.kind >= 0  # an EOS ends the answer: fewer answers than pairs of tokens
    assert (
        some.sum(1).tolist()
        == [(vocabulary - 1) * vocabulary + 1 if variable else vocabulary**2] * 2
    )
    np.testing.assert_allclose(np.exp(free.scores).sum(1), 1.0, atol=1e-4)
    np.testing.assert_allclose(
        (np.exp(free.scores) * ~free.valid).sum(1), invalid_mass(scorer, prompts, index), atol=1e-4
    )
    assert (free.kind == 0).sum(1).tolist() == [3, 3]
    writable = 3 * 2 + 3 * variable
    assert (free.kind == 2).sum(1).tolist() == [writable - 3] * 2
    for place in np.flatnonzero(free.kind[0] == 1)[:50]:
        assert -1 in free.codes[0, place] or free.lengths[0, place] == 0
    np.testing.assert_allclose(
        np.sort(free.scores[free.valid]),
        np.sort(score_all(scorer, prompts, index).flatten()),
        atol=1e-5,
    )
    narrow = free_beam_search(scorer, prompts, index, 10)
    assert kind_shares(narrow, 10)["not a code of this level"] > 0


def test_errors_name_what_to_do():
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        LmScorer(small()).prefill([[1], []])
    windowed = small("mistral")
    windowed.backbone.config.sliding_window = 8
    with pytest.raises(ValueError, match="does not fit this backbone: some layers attend inside"):
        LmScorer(windowed, engine="lean")
    assert type(LmScorer(windowed).engine).__name__ == "TreeDecoder"


def test_int8_rounds_each_position_alone():
    weight, x = torch.randn(6, 16) * 3, torch.randn(16, 5)
    product = Int8.of(weight, torch.ones(6, 1))
    by_hand = torch.empty(6, 5)
    for row, line in enumerate(weight.tolist()):
        scale = max(map(abs, line)) / 127
        codes = [round(value / scale) for value in line]
        for column, position in enumerate(x.T.tolist()):
            step = max(map(abs, position)) / 127
            rounded = [round(value / step) for value in position]
            dot = sum(a * b for a, b in zip(codes, rounded, strict=True))
            by_hand[row, column] = dot * scale * step + 1
    torch.testing.assert_close(product(x), by_hand, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(product(x[:, 2:3]), product(x)[:, 2:3])
    assert product(torch.zeros(16, 2)).tolist() == [[1.0, 1.0]] * 6


@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
def test_int8_is_close_to_fp32(family):
    model, index = small(family), some_index(variable=False)
    rounded = LmScorer(model, precision="int8")
    assert rounded.engine.blocks[0].qkv.weight.dtype == torch.int8
    for exact, ours in zip(walk(LmScorer(model)), walk(rounded), strict=True):
        assert 0 < (exact - ours).abs().mean() < 0.15 * exact.std()
    want, got = (beam_search(scorer, PROMPTS, index, 20) for scorer in (LmScorer(model), rounded))
    shared = [len(set(a) & set(b)) for a, b in zip(want.sids, got.sids, strict=True)]
    assert min(shared) >= 16
    rounded.refresh()
    np.testing.assert_array_equal(beam_search(rounded, PROMPTS, index, 20).sids, got.sids)


def test_int8_that_a_model_cannot_have_is_refused():
    windowed = small("mistral")
    windowed.backbone.config.sliding_window = 8
    with pytest.raises(ValueError, match=r"decode\.precision int8 does not fit this model: some"):
        LmScorer(windowed, precision="int8")
    with pytest.raises(ValueError, match=r"decode\.precision int8 does not fit.*engine='tree'"):
        LmScorer(small(), engine="tree", precision="int8")
