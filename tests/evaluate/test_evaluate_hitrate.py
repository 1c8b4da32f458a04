"""Hit rates at equal beam and under truncation, by hand and by loop; semantic and personalised
prompts.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_index import semantic_ids

from sidar.evaluate.measures.hitrate import (
    equal_beam,
    in_mode,
    largest_expansion,
    semantic,
    truncated,
)
from sidar.evaluate.measures.truth import Truth
from sidar.index import PrefixIndex
from sidar.types import EvalSet, Prompt

TUPLES = [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1)]  # rows 0-1, 2, 3, 4-5


def truth(relevant: list[set[int]], n: int = 6) -> Truth:
    qrels = {str(q): {str(row): 1.0 for row in rows} for q, rows in enumerate(relevant)}
    return Truth.build(qrels, list(qrels), int, n)


def test_both_protocols_by_hand() -> None:
    index = PrefixIndex.build(semantic_ids(TUPLES, (2, 2)), np.array([1.0, 2, 0, 0, 2, 1]))
    number = {tuple(codes): i for i, codes in enumerate(index.table.tolist())}
    ranked = np.array([[number[0, 0], number[1, 1], number[0, 1]], [number[1, 0], -1, -1]])
    wanted = truth([{0, 5}, {2}])
    found = equal_beam(wanted, index, ranked, [1, 2, 9])
    assert found["hit@1"].tolist() == [1, 0]
    assert found["recall@1"].tolist() == [0.5, 0]
    assert found["recall@2"].tolist() == [1, 0]
    assert found["items@2"].tolist() == [4, 1]
    assert found["items@9"].tolist() == [5, 1]
    # items 1, 0 (by the prior), then 4: item 5 is cut
    cut = truncated(wanted, index, ranked, most=3)
    assert {key: values.tolist() for key, values in cut.items()} == {
        "hit": [1, 0],
        "recall": [0.5, 0],
        "sids": [2, 1],
        "items": [3, 1],
    }
    assert truncated(wanted, index, ranked)["recall"].tolist() == [1, 0]
    assert largest_expansion(index, np.full((1, 2), -1)) == 1


@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_equal_to_a_loop_over_items(seed: int, beam: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    n, queries = 30, 4
    codes = rng.integers(0, 3, (n, 2))
    prior = rng.random(n)
    index = PrefixIndex.build(semantic_ids([tuple(c) for c in codes.tolist()], (3, 3)), prior)
    ranked = np.stack([rng.permutation(len(index)) for _ in range(queries)])
    relevant = [
        set(rng.choice(n, rng.integers(1, 6), replace=False).tolist()) for _ in range(queries)
    ]
    wide, cut = (
        equal_beam(truth(relevant, n), index, ranked, [beam]),
        truncated(truth(relevant, n), index, ranked, most),
    )
    for q in range(queries):
        listed = [
            (row, place)
            for place, sid in enumerate(ranked[q])
            for row in sorted(
                np.flatnonzero((codes == index.table[sid]).all(1)), key=lambda row: -prior[row]
            )
        ]
        inside = [row for row, place in listed if place < beam]
        assert wide[f"hit@{beam}"][q] == bool(relevant[q] & set(inside))
        assert wide[f"recall@{beam}"][q] == pytest.approx(
            len(relevant[q] & set(inside)) / len(relevant[q])
        )
        assert wide[f"items@{beam}"][q] == len(inside)
        first = listed[:most]
        assert cut["recall"][q] == pytest.approx(
            len(relevant[q] & {row for row, _ in first}) / len(relevant[q])
        )
        assert cut["sids"][q] == len({place for _, place in first})


def test_semantic_prompts_are_the_query_alone() -> None:
    prompts = (Prompt("lamp", (3, 4), "lives in Oslo"), Prompt("desk", task="item"))
    assert semantic(prompts) == (Prompt("lamp"), Prompt("desk", task="item"))
    sets = [EvalSet("day8", ("a", "b"), prompts, {"a": {"x": 1.0}})]
    assert in_mode(sets, "personalised") == sets
    (bare,) = in_mode(sets, "semantic")
    assert bare.prompts == semantic(prompts)
    assert (bare.name, bare.qrels) == ("day8", sets[0].qrels)
    with pytest.raises(ValueError, match="personalised or semantic"):
        in_mode(sets, "both")
    mute = [EvalSet("seq", ("a", "b"), (Prompt("x"), Prompt(" ", (1,))), {})]
    assert in_mode(mute, "personalised") == mute
    with pytest.raises(ValueError, match="leaves query 'b' of seq empty, as 1 of its 2"):
        in_mode(mute, "semantic")
