"""The start at the geometry: step 0 is quantised dense, and packing, beams and files know of the
sentence vector.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from reference_decode import sid_table
from toy_geometry import DIM, SIZES, books, build, everything, prompts, some, trained, unit

from sidar.baselines import reconstruct
from sidar.config import LmConfig
from sidar.decode import beam_search, score_all
from sidar.index import PrefixIndex
from sidar.lm import Candidate, SidLM, export_hf, pack, score
from sidar.lm.prior.geometry import FLOOR, SCALE
from sidar.lm.prior.legal import Legal
from sidar.lm.prompts import Encoded
from sidar.lm.scorer import LmScorer
from sidar.types import Prompt


def cosines(table, vectors=None):
    """(Q, SIDs): quantised dense, by SID number."""
    clusters = reconstruct(books(), PrefixIndex.build(table).table)
    return (unit() if vectors is None else vectors) @ (
        clusters / np.linalg.norm(clusters, axis=1, keepdims=True)
    ).T


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize("engine", ["lean", "tree"])
def test_step_zero_is_the_softmax_of_quantised_dense(engine, variable):
    """Exactly, for SIDs of any lengths: log π(y) = g cos(q, v_y) − log Σ exp g cos over the SIDs of
    the index.
    """
    model, index = build(some(variable)), PrefixIndex.build(some(variable))
    with torch.no_grad():
        model.geometry.log_gate.fill_(np.log(6.0))  # no conditional reaches the floor
    logp = score_all(LmScorer(model, engine=engine), prompts(), index).numpy()
    want = torch.log_softmax(6.0 * torch.from_numpy(cosines(some(variable))), 1).numpy()
    np.testing.assert_allclose(logp, want, atol=1e-4)
    beams = beam_search(LmScorer(model, engine=engine), prompts(), index, len(index))
    for q in range(3):
        assert beams.sids[q].tolist() == np.argsort(-want[q], kind="stable").tolist()


def test_step_zero_ranks_so_at_the_usual_scale():
    index = PrefixIndex.build(some())
    logp = score_all(LmScorer(build()), prompts(), index).numpy()
    want = torch.log_softmax(SCALE * torch.from_numpy(cosines(some())), 1).numpy()
    near = want > -20
    assert near.sum() > 30
    np.testing.assert_allclose(logp[near], want[near], atol=1e-3)
    # nothing is wasted on what is no SID
    assert np.exp(logp).sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    invalid = 1 - score_all(
        LmScorer(build()), prompts(), PrefixIndex.build(everything())
    ).exp().sum(1)
    assert float(invalid.abs().max()) < 1e-6
    assert [tuple(r.tolist()) for r in some().codes] != [
        tuple(r.tolist()) for r in everything().codes
    ]


def test_step_zero_by_hand():
    """SIDs (0,0), (0,1), (1,0) with vectors (1, 0), (0, 1), (0, 2); q = (1, 0), g = 2: weights e²,
    1 and 1.
    """
    tables = [
        np.array([[0.5, 0.5], [0, 1]], np.float32),
        np.array([[0.5, -0.5], [-0.5, 0.5]], np.float32),
    ]
    small = LmConfig(
        layers=1,
        hidden=16,
        heads=2,
        kv_heads=2,
        intermediate=16,
        text_embeddings="random",
        geometry=True,
    )
    table = sid_table([(0, 0), (0, 1), (1, 1)], (2, 2))  # (1,1): (−.5, 1.5), cosine −1 / √10
    model = SidLM.build(small, table, tables).eval()
    with torch.no_grad():
        model.geometry.log_gate.fill_(np.log(2.0))
    one = Encoded([4, 5])
    one.vector = np.array([1, 0], np.float32)
    found = score(
        model, pack([one], [[Candidate((0, 0)), Candidate((0, 1)), Candidate((1, 1))]], model.vocab)
    )
    a, b, c = np.exp(2.0), 1.0, np.exp(-2 / np.sqrt(10))
    first = [np.log((a + b) / (a + b + c))] * 2 + [np.log(c / (a + b + c))]
    second = [np.log(a / (a + b)), np.log(b / (a + b)), 0.0]
    want = torch.tensor(np.stack([first, second], 1), dtype=torch.float32)
    torch.testing.assert_close(found.logp[0, :, :2], want, atol=1e-5, rtol=1e-5)


def one_by_one(model, prompt, codes, table):
    """The definition, in loops over SIDs: the prior of each code, plus the decoder's logits.

    Log-probs by step.
    """
    geometry, vocab = model.geometry, model.vocab
    vector = torch.from_numpy(np.asarray(prompt.vector))
    row = torch.tensor([list(prompt) + [vocab.text_vocab + t for t in vocab.tokens(codes)]])
    embeds = model.embed_tokens(row).clone()
    embeds[0, len(prompt) - 1] += geometry.token @ vector
    states = model.backbone(inputs_embeds=embeds, use_cache=False).last_hidden_state[0]
    sids = sorted({table.tuple_of(r) for r in range(len(table))})

    def weight(sid):
        true = sum(books()[level][code] for level, code in enumerate(sid))
        mine = sum(geometry.codes[level][code] for level, code in enumerate(sid))
        return torch.exp(
            geometry.log_gate.exp() * (geometry.query @ vector) @ mine / float(np.linalg.norm(true))
        )

    def under(prefix):
        return sum((weight(s) for s in sids if s[: len(prefix)] == prefix), torch.zeros(()))

    steps = []
    for depth in range(min(len(codes) + vocab.variable_length, vocab.n_levels)):
        state, prefix = states[len(prompt) - 1 + depth], codes[:depth]
        heads, masses = model.heads[depth], [under((*prefix, c)) for c in range(SIZES[depth])]
        if vocab.has_eos(depth):
            heads = torch.cat([heads, model.eos_head])
            masses.append(weight(prefix) if prefix in sids else torch.zeros(()))
        total = under(prefix)
        logits = heads @ state / model.hidden_size**0.5
        if total > 0:
            prior = [torch.log(m / total) if m > 0 else torch.tensor(FLOOR) for m in masses]
            logits = logits + geometry.strength[depth] * torch.stack(
                [p.clamp(min=FLOOR) for p in prior]
            )
        column = codes[depth] if depth < len(codes) else len(logits) - 1
        steps.append(torch.log_softmax(logits, 0)[column])
    return steps


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("variable", [False, True])
def test_packed_is_one_by_one_in_values_and_gradients(variable, side):
    """Also for candidates that are no SIDs of the index: their prior is the floor, or nothing at
    all.
    """
    model, table = trained(variable), some(variable)
    known = [table.tuple_of(r) for r in range(len(table))]
    listed = [
        [known[0], known[1], known[9]],
        [known[-1], known[-2]],
        [known[20], (0, 0, 3), (5, 4, 3)],
    ]
    if variable:
        short = [t for t in known if len(t) < 3]
        listed[1] += short[:3]
    packed = pack(
        prompts(), [[Candidate(c) for c in one] for one in listed], model.vocab, side=side
    )
    scores = score(model, packed)
    slow = [
        [one_by_one(model, p, c, table) for c in one]
        for p, one in zip(prompts(), listed, strict=True)
    ]
    for b, one in enumerate(slow):
        for c, steps in enumerate(one):
            torch.testing.assert_close(
                scores.logp[b, c][scores.mask[b, c]], torch.stack(steps), atol=1e-4, rtol=1e-4
            )
    names, parameters = zip(*model.named_parameters(), strict=True)
    fast = torch.autograd.grad(scores.logp.sum(), parameters, allow_unused=True, retain_graph=True)
    total = sum(step for one in slow for steps in one for step in steps)
    for name, a, b in zip(
        names, fast, torch.autograd.grad(total, parameters, allow_unused=True), strict=True
    ):
        # the packed pass also scores the end of full-length SIDs
        assert b is not None or name == "eos_head"
        if b is not None:
            torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3, msg=name)


def test_gradients_reach_every_part():
    model = build().train()
    known = [some().tuple_of(row) for row in (0, 11, 30)]
    packed = pack(prompts(), [[Candidate(codes)] for codes in known], model.vocab)
    score(model, packed).logp.sum().backward()
    moved = {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    ours = {"query", "log_gate", "strength", "codes.0", "codes.2"}
    assert {*(f"geometry.{name}" for name in ours), "heads.0", "heads.2"} <= moved
    # heads start at zero, so the decoder and its token are reached from the second step on
    with torch.no_grad():
        for head in model.heads:
            head -= 1e-3 * head.grad
    model.zero_grad()
    score(model, packed).logp.sum().backward()
    moved = {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert {"geometry.token", "sid_in"} <= moved
    assert any(name.startswith("backbone.layers.0") for name in moved)


@pytest.mark.parametrize("variable", [False, True])
def test_beam_is_exhaustive_and_engines_agree(variable):
    model, index = trained(variable), PrefixIndex.build(some(variable))
    whole = score_all(LmScorer(model), prompts(), PrefixIndex.build(everything(variable)))
    # one distribution, EOS included
    assert whole.exp().sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-4)
    logp = score_all(LmScorer(model), prompts(), index).numpy()
    twin = score_all(LmScorer(model, engine="tree"), prompts(), index).numpy()
    assert np.abs(logp - twin).max() < 1e-4
    beams = beam_search(LmScorer(model), prompts(), index, len(index))
    for q in range(3):
        assert beams.sids[q].tolist() == np.lexsort((np.arange(len(index)), -logp[q])).tolist()
    alone = beam_search(LmScorer(model), prompts()[1:2], index, 5)
    # a neighbour's vector changes nothing
    assert alone.sids.tolist() == beams.sids[1:2, :5].tolist()
    other = beam_search(LmScorer(model), prompts(unit(seed=9)), index, 5)
    assert other.sids.tolist() != beams.sids[:, :5].tolist()


def test_a_saved_model_is_the_same_model_once_it_has_an_index(tmp_path):
    model, index = trained(), PrefixIndex.build(some())
    model.save_pretrained(tmp_path)
    again = SidLM.from_pretrained(tmp_path)
    assert again.config.geometry == DIM
    with pytest.raises(ValueError, match=r"model\.use\(index\)"):
        LmScorer(again).prefill(prompts())
    again.use(index)
    assert torch.equal(
        score_all(LmScorer(model), prompts(), index), score_all(LmScorer(again), prompts(), index)
    )


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
    model.prompts.reader = lambda texts: (
        read.append(list(texts)) or np.stack([np.full(DIM, len(t)) for t in texts])
    )
    table = sid_table([(0, 0, 0)], SIZES)
    found = model.prompts.encode_batch(
        [Prompt("mug"), Prompt("cup", (0,)), Prompt("mug", (0,))], table
    )
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


def test_a_refreshed_index_reaches_new_items_at_once():
    """A new item's SID is scored by its vector from the first search on, without training."""
    model, index = build(), PrefixIndex.build(some())
    new = next(
        t for t in itertools.product(*map(range, SIZES)) if index.lookup(np.array([t]))[0] < 0
    )
    table = sid_table([*(some().tuple_of(r) for r in range(len(some()))), new], SIZES)
    today = PrefixIndex.build(table)
    number = int(today.lookup(np.array([new]))[0])
    towards = reconstruct(books(), np.array([new], np.int32))
    asked = prompts(np.repeat(towards / np.linalg.norm(towards), 3, 0))
    assert beam_search(LmScorer(model), asked, today, 4).sids[0, 0] != number
    model.use(today)
    assert beam_search(LmScorer(model), asked, today, 4).sids[0, 0] == number
    with pytest.raises(ValueError, match=r"codebooks \(6, 5, 5\), the model \(6, 5, 4\)"):
        model.use(PrefixIndex.build(sid_table([(0, 0, 4)], (6, 5, 5))))
    # reads none
    SidLM.build(LmConfig(layers=1, hidden=16, heads=2, kv_heads=2, intermediate=16), SIZES).use(
        today
    )


def test_legal_knows_what_the_index_knows():
    for table in (some(), some(True)):
        index = PrefixIndex.build(table)
        legal = Legal(index, np.concatenate(books()))
        rng = np.random.default_rng(0)
        for depth in range(3):
            prefixes = rng.integers(-1, index.n_prefixes[depth], size=(4, 50))
            codes = rng.integers(0, SIZES[depth], size=(4, 50))
            want = index.children(depth, prefixes.ravel(), codes.ravel()).reshape(4, 50)
            assert (
                legal.child(depth, torch.from_numpy(prefixes), torch.from_numpy(codes)).tolist()
                == want.tolist()
            )
        clusters = reconstruct(books(), index.table)
        assert legal.weights[:, 0].numpy() == pytest.approx(
            1 / np.linalg.norm(clusters, axis=1), rel=1e-5
        )
        assert ((legal.weights != 0).numpy() == (index.table >= 0)).all()
    assert copy.deepcopy(legal) is legal


@pytest.mark.parametrize("variable", [False, True])
def test_legal_lists_what_may_follow_a_prefix(variable):
    index = PrefixIndex.build(some(variable))
    legal, sids = (
        Legal(index, np.concatenate(books())),
        [tuple(r[r >= 0].tolist()) for r in index.table],
    )
    for depth in range(3):
        prefixes = sorted({s[:depth] for s in sids if len(s) >= depth})
        for p, prefix in enumerate(prefixes):
            below = [y for y, s in enumerate(sids) if s[:depth] == prefix]
            low = int(legal.low[depth][p])
            assert below == list(range(low, low + int(legal.count[depth][p])))
            a, b = legal.choice_start[depth][p : p + 2].tolist()
            columns = legal.choice_column[depth][a:b].tolist()
            for y in below:
                column = sids[y][depth] if len(sids[y]) > depth else SIZES[depth]
                assert columns[int(legal.choice_of[depth][y]) - a] == column
            assert len(columns) == len({s[: depth + 1] for s in sids if s[:depth] == prefix})
