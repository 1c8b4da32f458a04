"""The start at the geometry: step 0 is quantised dense, and packing, beams and files know of the sentence vector."""

import copy
import itertools

import numpy as np
import pytest
import torch
from reference_decode import sid_table

from sidar.baselines import reconstruct
from sidar.config import LmConfig
from sidar.decode import beam_search, score_all
from sidar.index import PrefixIndex
from sidar.lm import Candidate, SidLM, export_hf, pack, score
from sidar.lm.geometry import SCALE
from sidar.lm.prompts import Encoded
from sidar.lm.scorer import LmScorer
from sidar.types import Prompt, SemanticIds

SIZES, DIM = (6, 5, 4), 8
TEXTS = [[5, 6, 7, 8, 9], [11, 3], [12, 13, 14]]


def books(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(k, DIM)).astype(np.float32) / (1 + level) for level, k in enumerate(SIZES)]


def unit(n=3, seed=1):
    q = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def prompts(vectors=None):
    found = []
    for text, vector in zip(TEXTS, unit() if vectors is None else vectors, strict=True):
        found.append(Encoded(text))
        found[-1].vector = vector
    return found


def build(tables=SIZES, **lm):
    small = {"layers": 2, "hidden": 32, "heads": 2, "kv_heads": 1, "intermediate": 48, "text_embeddings": "random"}
    return SidLM.build(LmConfig(geometry=True, **{**small, **lm}), tables, books(), seed=3).eval()


def trained(variable=False, seed=5):
    """As if trained for long: every weight is random, and the decoder and the geometry both matter."""
    table = sid_table([*itertools.product(range(6), range(5)), (1,), (2, 3, 1)], SIZES) if variable else SIZES
    model = build(table)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.startswith(("heads", "eos_head", "geometry.token")):
                parameter.copy_(0.5 * noise)
            elif name.startswith("geometry"):
                parameter.add_(0.1 * noise)
    return model


def everything(variable=False):
    tuples = list(itertools.product(*map(range, SIZES)))
    if variable:
        tuples += list(itertools.product(range(6), range(5))) + list(itertools.product(range(6)))
    return PrefixIndex.build(sid_table(tuples, SIZES))


@pytest.mark.parametrize("engine", ["lean", "tree"])
def test_step_zero_ranks_as_quantised_dense_exactly(engine):
    index = everything()
    logp = score_all(LmScorer(build(), engine=engine), prompts(), index).numpy()
    inner = unit() @ reconstruct(books(), index.table).T  # (Q, SIDs) float32
    constant = logp - SCALE * inner.astype(np.float64)
    assert np.abs(constant - constant.mean(1, keepdims=True)).max() < 1e-4
    assert (np.argsort(-logp, axis=1)[:, :40] == np.argsort(-inner, axis=1)[:, :40]).all()
    assert np.exp(logp).sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    beams = beam_search(LmScorer(build(), engine=engine), prompts(), index, 120)
    assert (beams.sids[:, :40] == np.argsort(-inner, axis=1)[:, :40]).all()


def test_step_zero_by_hand():
    """Two levels of two codes: q = (1, 0), centroids' first coordinates .5 and 0, then .1 and −.1."""
    tables = [np.array([[0.5, 9], [0, 9]], np.float32), np.array([[0.1, 0], [-0.1, 3]], np.float32)]
    small = LmConfig(layers=1, hidden=16, heads=2, kv_heads=2, intermediate=16, text_embeddings="random", geometry=True)
    model = SidLM.build(small, (2, 2), tables).eval()
    one = Encoded([4, 5])
    one.vector = np.array([1, 0], np.float32)
    found = score(model, pack([one], [[Candidate((0, 0)), Candidate((1, 1))]], model.vocab)).logp[0, :, :2]
    wanted = [[-np.log1p(np.exp(-10)), -np.log1p(np.exp(-4))], [-10 - np.log1p(np.exp(-10)), -4 - np.log1p(np.exp(-4))]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32), atol=1e-5, rtol=1e-5)


def one_by_one(model, prompt, codes):
    """The definition: the vector's map added to the last prompt token, its logits to each level's. Step log-probs."""
    geometry, vocab = model.geometry, model.vocab
    vector = torch.from_numpy(np.asarray(prompt.vector))
    row = torch.tensor([list(prompt) + [vocab.text_vocab + t for t in vocab.tokens(codes)]])
    embeds = model.embed_tokens(row).clone()
    embeds[0, len(prompt) - 1] += geometry.token @ vector
    states = model.backbone(inputs_embeds=embeds, use_cache=False).last_hidden_state[0]
    steps = []
    for depth in range(min(len(codes) + vocab.variable_length, vocab.n_levels)):
        state = states[len(prompt) - 1 + depth]
        logits = model.heads[depth] @ state + geometry.gate[depth] * (geometry.codes[depth] @ (geometry.query @ vector))
        if vocab.has_eos(depth):
            logits = torch.cat([logits, model.eos_head @ state])
        column = codes[depth] if depth < len(codes) else len(logits) - 1
        steps.append(torch.log_softmax(logits, 0)[column])
    return steps


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("variable", [False, True])
def test_packed_is_one_by_one_in_values_and_gradients(variable, side):
    model = trained(variable)
    listed = [[(0, 1, 2), (0, 1, 3), (5, 4, 0)], [(3, 3, 3)], [(2, 0, 0), (1, 0, 0)]]
    if variable:
        listed[1] += [(3, 3), (3,)]
    packed = pack(prompts(), [[Candidate(c) for c in one] for one in listed], model.vocab, side=side)
    scores = score(model, packed)
    slow = [[one_by_one(model, p, c) for c in one] for p, one in zip(prompts(), listed, strict=True)]
    for b, one in enumerate(slow):
        for c, steps in enumerate(one):
            torch.testing.assert_close(scores.logp[b, c][scores.mask[b, c]], torch.stack(steps), atol=1e-4, rtol=1e-4)
    names, parameters = zip(*model.named_parameters(), strict=True)
    fast = torch.autograd.grad(scores.logp.sum(), parameters, allow_unused=True, retain_graph=True)
    total = sum(step for one in slow for steps in one for step in steps)
    for name, a, b in zip(names, fast, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
        assert b is not None or name == "eos_head"  # the packed pass also scores the end of full-length SIDs
        if b is not None:
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=name)


def test_gradients_reach_every_part():
    model = build().train()
    packed = pack(prompts(), [[Candidate((0, 1, 2))], [Candidate((3, 2, 1))], [Candidate((5, 0, 0))]], model.vocab)
    score(model, packed).logp.sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"geometry.query", "geometry.gate", "geometry.codes.0", "geometry.codes.2", "heads.0", "heads.2"} <= moved
    with torch.no_grad():  # heads start at zero, so the decoder and its token are reached from the second step on
        for head in model.heads:
            head -= 1e-3 * head.grad
    model.zero_grad()
    score(model, packed).logp.sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"geometry.token", "sid_in"} <= moved
    assert any(name.startswith("backbone.layers.0") for name in moved)


@pytest.mark.parametrize("variable", [False, True])
def test_beam_is_exhaustive_and_engines_agree(variable):
    model, index = trained(variable), everything(variable)
    logp = score_all(LmScorer(model), prompts(), index).numpy()
    assert np.exp(logp).sum(1) == pytest.approx(np.ones(3), abs=1e-4)  # one distribution, EOS included
    twin = score_all(LmScorer(model, engine="tree"), prompts(), index).numpy()
    assert np.abs(logp - twin).max() < 1e-4
    beams = beam_search(LmScorer(model), prompts(), index, len(index))
    for q in range(3):
        assert beams.sids[q].tolist() == np.lexsort((np.arange(len(index)), -logp[q])).tolist()
    alone = beam_search(LmScorer(model), prompts()[1:2], index, 5)
    assert alone.sids.tolist() == beams.sids[1:2, :5].tolist()  # a neighbour's vector changes nothing
    other = beam_search(LmScorer(model), prompts(unit(seed=9)), index, 5)
    assert other.sids.tolist() != beams.sids[:, :5].tolist()


def test_a_saved_model_is_the_same_model(tmp_path):
    model, index = trained(), everything()
    model.save_pretrained(tmp_path)
    again = SidLM.from_pretrained(tmp_path)
    assert again.config.geometry == DIM
    assert torch.equal(score_all(LmScorer(model), prompts(), index), score_all(LmScorer(again), prompts(), index))


def test_vectors_must_come_along():
    model = build()
    table = sid_table([(0, 0, 0)], SIZES)
    for call in (
        lambda: LmScorer(model).prefill([[1, 2]]),
        lambda: score(model, pack([[1, 2]], [[Candidate((0, 0, 0))]], model.vocab)),
        lambda: model.prompts.encode(Prompt("mug"), table),
    ):
        with pytest.raises(ValueError, match=r"model\.prompts\.reader = "):
            call()
    model.prompts.reader = lambda texts: np.zeros((len(texts), DIM + 1))
    with pytest.raises(ValueError, match=r"\(1, 9\) for 1 queries, the model reads 8 dimensions"):
        model.prompts.encode(Prompt("mug"), table)


def test_each_distinct_query_is_read_once_and_copies_share_the_reader():
    model, read = build(), []
    model.prompts.reader = lambda texts: read.append(list(texts)) or np.stack([np.full(DIM, len(t)) for t in texts])
    table = sid_table([(0, 0, 0)], SIZES)
    found = model.prompts.encode_batch([Prompt("mug"), Prompt("cup", (0,)), Prompt("mug", (0,))], table)
    model.prompts.encode(Prompt("cups"), table)
    assert read == [["mug", "cup"], ["cups"]]
    assert [p.vector[0] for p in found] == [3, 3, 3]
    assert copy.deepcopy(model).prompts.reader is model.prompts.reader
    given = model.prompts.encode_batch([Prompt("a whole title", task="item")], table, unit(1))
    assert (given[0].vector == unit(1)[0]).all()
    assert len(read) == 2
    plain = SidLM.build(LmConfig(layers=1, hidden=16, heads=2, kv_heads=2, intermediate=16), SIZES)
    assert plain.prompts.encode(Prompt("mug"), table).vector is None


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(ValueError, match="no codebooks were given"):
        SidLM.build(LmConfig(geometry=True), SIZES)
    with pytest.raises(ValueError, match="full has logits of text too"):
        SidLM.build(LmConfig(geometry=True, head="full"), SIZES, books())
    with pytest.raises(ValueError, match=r"lm\.geometry=false to export"):
        export_hf(build(), tmp_path)


def test_older_models_load_as_before(tmp_path):
    import json

    plain = SidLM.build(LmConfig(layers=1, hidden=16, heads=2, kv_heads=2, intermediate=16), SIZES)
    plain.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    del about["geometry"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert SidLM.from_pretrained(tmp_path).geometry is None


def test_table_of_another_length_still_needs_one_distribution():
    """With SIDs of several lengths the start is only near quantised dense (docs/grown.md), but it is a distribution."""
    model = build(SemanticIds(np.array([[0, 1, -1], [1, 1, 1]], np.int32), np.array([2, 3], np.int32), SIZES))
    assert model.vocab.variable_length
    logp = score_all(LmScorer(model), prompts(), everything(variable=True))
    assert logp.exp().sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
