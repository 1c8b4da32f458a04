"""SIDs of several lengths from the table to the results: nothing is lost on the way and every score
is exact.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_decode import TEXT, small
from shop import TINY, mixed_table, table, write_bundle, write_stages

from sidar import Retriever
from sidar.config import LmConfig
from sidar.decode import (
    beam_search,
    exact_search,
    free_beam_search,
    invalid_mass,
    score_all,
    to_hits,
)
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.lm.packing import Candidate, pack, score
from sidar.lm.scorer import LmScorer
from sidar.serve.trace import PrefixStats
from sidar.sid.table import load_sids, save_sids
from sidar.types import Catalogue, SemanticIds

PROMPT = [3, 9, 27, TEXT + 1]


@st.composite
def tables(draw):
    """A random SID table: any sizes and lengths, rows without an SID, prefixes that are SIDs,
    shared SIDs.
    """
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    seed, n = draw(st.integers(0, 10**6)), draw(st.integers(1, 40))
    shortest = draw(st.integers(0, len(sizes)))  # L: one fixed length
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, sizes, (n, len(sizes))).astype(np.int32)
    lengths = rng.integers(shortest, len(sizes) + 1, n).astype(np.int32)
    lengths[0] = max(lengths[0], 1)
    codes[np.arange(len(sizes)) >= lengths[:, None]] = -1
    return SemanticIds(codes, lengths, sizes, method="random")


def sids_of(table):
    """{SID: its rows, by falling prior = rising row}."""
    found = {}
    for row in range(len(table)):
        if table.lengths[row]:
            found.setdefault(table.tuple_of(row), []).append(row)
    return found


@settings(deadline=None, max_examples=60)
@given(tables())
def test_a_random_table_survives_table_vocabulary_pack_index_beam_and_rows(made):
    ids = [f"item {row}" for row in range(len(made))]
    with tempfile.TemporaryDirectory() as folder:
        save_sids(Path(folder) / "sids.parquet", ids, made)
        table = load_sids(Path(folder) / "sids.parquet", ids)
        PrefixIndex.build(table, -np.arange(len(table), dtype=np.float32)).save(folder)
        index = PrefixIndex.load(folder)
    np.testing.assert_array_equal(table.codes, made.codes)
    np.testing.assert_array_equal(table.lengths, made.lengths)
    model = small(sizes=table.codebook_sizes, variable=not table.fixed_length)
    model.vocab.check_fits(table)
    wanted = sids_of(table)

    # every SID under one prompt in one packed pass: the exhaustive answer
    with torch.no_grad():
        packed = score(
            model, pack([PROMPT], [[Candidate(sid, True, 1) for sid in wanted]], model.vocab)
        )
    exact = dict(
        zip(wanted, torch.where(packed.mask, packed.logp, 0.0).sum(-1)[0].tolist(), strict=True)
    )
    assert packed.mask.sum(-1)[0].tolist() == [
        len(sid) + (len(sid) < len(table.codebook_sizes)) for sid in wanted
    ]

    scorer = LmScorer(model)
    everything = sum(index.n_prefixes)
    whole = beam_search(scorer, [PROMPT], index, everything)
    best_first = exact_search(scorer, [PROMPT], index, everything)
    for beams in (whole, best_first):
        found = [tuple(int(c) for c in codes if c >= 0) for codes in beams.codes[0]]
        assert sorted(found) == sorted(wanted)
        assert [len(sid) for sid in found] == beams.lengths[0].tolist()
        assert index.lookup(beams.codes[0]).tolist() == beams.sids[0].tolist()
        assert beams.scores[0].tolist() == pytest.approx([exact[sid] for sid in found], abs=1e-4)
        assert beams.level_logp[0].sum(-1) == pytest.approx(beams.scores[0], abs=1e-4)
        assert (np.diff(beams.scores[0]) <= 0).all()
    assert whole.sids.tolist() == best_first.sids.tolist()
    every = score_all(scorer, [PROMPT], index)[0].numpy()
    assert every[whole.sids[0]] == pytest.approx(whole.scores[0], abs=1e-5)
    assert invalid_mass(scorer, [PROMPT], index, tolerance=0)[0] == pytest.approx(
        1 - np.exp(every).sum(), abs=1e-5
    )

    # rows: each item once, under its own SID, in the order of the SIDs and inside one by prior
    hits = to_hits(whole, index, len(table) + 3)
    assert hits.rows[0][hits.rows[0] >= 0].tolist() == [row for sid in found for row in wanted[sid]]
    for row, codes in zip(hits.rows[0], hits.sids[0], strict=True):
        assert row < 0 or tuple(int(c) for c in codes if c >= 0) == table.tuple_of(row)

    narrow = beam_search(scorer, [PROMPT], index, 2)
    for codes, total in zip(narrow.codes[0], narrow.scores[0], strict=True):
        assert total == pytest.approx(exact[tuple(int(c) for c in codes if c >= 0)], abs=1e-4)
    free = free_beam_search(scorer, [PROMPT], index, 4)
    for codes, total, valid in zip(free.codes[0], free.scores[0], free.valid[0], strict=True):
        sid = tuple(int(c) for c in codes if c >= 0)
        assert valid == (sid in wanted)
        assert not valid or total == pytest.approx(exact[sid], abs=1e-4)


@settings(deadline=None, max_examples=100)
@given(tables())
def test_what_lies_below_a_prefix_is_counted_exactly(made):
    index = PrefixIndex.build(made)
    n = len(made)
    columns = {"category": [["all"]] * n, "title": [f"item {row}" for row in range(n)]}
    posts = PrefixStats(index, Catalogue(pa.table(columns), "lineage"))
    wanted = sids_of(made)
    for prefix in {sid[:depth] for sid in wanted for depth in range(1, len(sid) + 1)}:
        under = {sid: rows for sid, rows in wanted.items() if sid[: len(prefix)] == prefix}
        items, sids, _, _, example = posts.below(prefix)
        assert (items, sids) == (sum(map(len, under.values())), len(under))
        assert example in {f"item {row}" for rows in under.values() for row in rows}


# ---------------------------------------------------------------------- the façade


@pytest.fixture(scope="module")
def retriever(tmp_path_factory):
    run = write_stages(tmp_path_factory.mktemp("mixed"), sids=mixed_table())
    return Retriever.load(write_bundle(run), precision="fp32")


@pytest.mark.parametrize("exact", [False, True])
def test_a_result_counts_its_end_and_the_explanation_says_where_ids_end(retriever, exact):
    answer = retriever.explain("bath towel", k=64, beam=200, exact=exact)
    assert sorted({len(r.sid) for r in answer.results}) == [1, 2, 3]
    for result in answer.results:
        assert len(result.level_logp) == min(len(result.sid) + 1, 3)
        share = retriever.shares.log_share[
            retriever.index.rows == retriever.catalogue.row(result.item_id)
        ]
        assert sum(result.level_logp) + share == pytest.approx(result.score, abs=1e-5)
    found = {r.sid: r.probability for r in answer.results}
    assert answer.mass == pytest.approx(sum(found.values()), rel=1e-4)
    # all followed
    assert sum(level.ended for level in answer.levels) == pytest.approx(answer.mass, rel=1e-4)
    for level in answer.levels:
        for prefix in level.prefixes:
            assert (prefix.codes in found) == (prefix.end is not None)
            if prefix.end is not None:
                assert prefix.end == pytest.approx(found[prefix.codes], rel=1e-4)
                assert (prefix.end == prefix.probability) == (level.depth == 3)
    # the mass is that of three SIDs, one of which is shown
    narrow = retriever.explain("bath towel", k=1, beam=3)
    assert found[narrow.results[0].sid] < narrow.mass < 1


def test_with_one_length_nothing_ends_early_and_the_last_level_is_the_mass(tmp_path):
    one = Retriever.load(write_bundle(write_stages(tmp_path)), precision="fp32").explain(
        "towel", k=5, beam=8
    )
    assert [level.ended for level in one.levels[:2]] == [0, 0]
    assert one.levels[-1].ended == pytest.approx(one.levels[-1].mass)
    assert one.mass == pytest.approx(one.levels[-1].mass, rel=1e-5)
    assert {len(r.level_logp) for r in one.results} == {3}


def test_a_model_of_one_length_refuses_a_table_of_several(tmp_path):
    fixed = SidLM.build(TINY, table())
    with pytest.raises(
        ValueError,
        match=r"exactly 3 codes, but row 0 of the SID table 'mixed-1' has 1; .*sidar sft",
    ):
        fixed.vocab.check_fits(mixed_table())
    run = write_stages(tmp_path / "run", sids=mixed_table())
    fixed.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="exactly 3 codes"):
        write_bundle(run, model=tmp_path / "model")
    # the other way round is fine
    SidLM.build(LmConfig(**TINY.model_dump()), mixed_table()).vocab.check_fits(table())
