import numpy as np
import pyarrow as pa
import pytest
import reference_answer as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.answer.fit import Chosen, fit_answer, log_likelihood, pack, unpack
from sidar.answer.memory import Memory, MemoryFacts, key_check, query_key
from sidar.answer.origins import LEAST, origins
from sidar.answer.smoothed import AnswerParams, SmoothedMemory, popularity
from sidar.types import Hits

SECRET = b"secret"
PARAMS = AnswerParams(
    1.5, 7.0, 0.05, 0.02, {"prior": 0.3, "a": 0.7, "b": 0.4}, {"a": 0.5, "b": 2.0}
)


def memory_of(entries, last_day=10):
    """``entries``: (query, row, day, weight)."""
    table = pa.table(
        {
            "key": pa.array([query_key(q, SECRET) for q, *_ in entries], pa.uint64()),
            "row": [row for _, row, _, _ in entries],
            "day": [day for *_, day, _ in entries],
            "weight": [float(w) for *_, w in entries],
            "users": [1] * len(entries),
        }
    )
    return Memory.of(table, MemoryFacts("l", last_day, key_check(SECRET)))


def hits_of(listed, width=4):
    """``listed``: per query {row: score}."""
    rows = np.full((len(listed), width), -1, np.int32)
    scores = np.zeros((len(listed), width), np.float32)
    for q, one in enumerate(listed):
        for place, (row, score) in enumerate(sorted(one.items(), key=lambda x: -x[1])):
            rows[q, place], scores[q, place] = row, score
    return Hits(rows, scores)


COUNTS = np.array([5, 0, 3, 8, 0, 1, 2, 0])
ALIVE = np.array([True, True, True, True, True, True, False, True])


@st.composite
def worlds(draw):
    live = [row for row in range(8) if ALIVE[row]]
    listed = st.dictionaries(st.sampled_from(live), st.floats(-5, 5, width=32), max_size=4)
    entries = draw(
        st.lists(
            st.tuples(
                st.just("red"), st.integers(0, 7), st.integers(0, 10), st.sampled_from([1, 2, 4])
            ),
            max_size=5,
        )
    )
    return {"a": draw(listed), "b": draw(listed)}, entries


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_the_answer_equals_the_formulas_and_sums_to_one_over_live_items(world):
    channels, entries = world
    memory = memory_of(entries)
    live = [row for row in range(8) if ALIVE[row]]
    counts = dict.fromkeys(live, 0.0)
    for _, row, day, weight in entries:
        if row in counts:
            counts[row] += weight * 2 ** (-(10 - day) / PARAMS.half_life)
    want = slow.answer(PARAMS, channels, dict(enumerate(COUNTS)), counts, live)
    model = SmoothedMemory(PARAMS, COUNTS, ALIVE, memory, SECRET)
    found = model.distribution("Red!", {name: hits_of([one]) for name, one in channels.items()})
    assert found.sum() == pytest.approx(1.0, abs=1e-9)
    assert found[6] == 0.0  # retired
    np.testing.assert_allclose(found[live], [want[row] for row in live], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(worlds(), st.lists(st.booleans(), min_size=8, max_size=8).map(np.array))
def test_a_filter_restricts_and_renormalises_everything(world, allowed):
    channels, entries = world
    mask = ALIVE & allowed
    kept = {name: {row: s for row, s in one.items() if mask[row]} for name, one in channels.items()}
    model = SmoothedMemory(PARAMS, COUNTS, ALIVE, memory_of(entries), SECRET)
    found = model.distribution("red", {n: hits_of([o]) for n, o in kept.items()}, allowed)
    assert found.sum() == pytest.approx(float(mask.any()), abs=1e-9)
    assert not found[~mask].any()


def test_an_empty_log_gives_p0_and_an_unreached_query_counts_and_prior():
    channels = {"a": hits_of([{0: 1.0, 3: 0.5}]), "b": hits_of([{3: 2.0}])}
    without = SmoothedMemory(PARAMS, COUNTS, ALIVE).distribution("red", channels)
    empty = SmoothedMemory(PARAMS, COUNTS, ALIVE, memory_of([]), SECRET).distribution(
        "red", channels
    )
    np.testing.assert_array_equal(without, empty)

    silent = {name: hits_of([{}]) for name in "ab"}
    known = SmoothedMemory(
        PARAMS, COUNTS, ALIVE, memory_of([("red", 4, 10, 2)]), SECRET
    ).distribution("red", silent)
    prior = popularity(COUNTS, ALIVE)
    want = (np.eye(8)[4] * 2 + PARAMS.kappa * prior) / (2 + PARAMS.kappa)
    np.testing.assert_allclose(known, want)


def test_a_new_item_without_interaction_is_reachable_and_ranked_by_its_channel():
    model = SmoothedMemory(PARAMS, COUNTS, ALIVE, memory_of([("red", 0, 10, 1)]), SECRET)
    answer = model.rank(["blue"], {"a": hits_of([{7: 5.0, 0: 0.0}]), "b": hits_of([{7: 1.0}])}, 3)
    assert answer.hits.rows[0, 0] == 7
    assert answer.counts[0, 0] == 0


def test_decay_is_a_half_at_the_half_life():
    memory = memory_of([("red", 1, 10, 4), ("red", 2, 3, 4)])
    rows, counts = memory.counts("red", SECRET, 7.0)
    assert rows.tolist() == [1, 2]
    np.testing.assert_allclose(counts, [4.0, 2.0])


def chosen_of(requests, live_memory, ages):
    """Chosen of requests [(query counts by row and age, positives)]."""
    request = [r for r, (_, positives) in enumerate(requests) for _ in positives]
    row = [i for _, positives in requests for i in positives]
    positive = np.array(
        [[requests[r][0].get((i, a), 0.0) for a in ages] for r, i in zip(request, row, strict=True)]
    )
    total = np.array(
        [[sum(w for (_, b), w in c.items() if b == a) for a in ages] for c, _ in requests]
    )
    return Chosen(np.array(request), np.array(row), positive, total, np.array(ages, float))


def world_of_requests(n=40, seed=0):
    rng = np.random.default_rng(seed)
    live = np.flatnonzero(ALIVE)
    listed, requests = {"a": [], "b": []}, []
    for _ in range(n):
        right = int(rng.choice(live))
        a = {
            int(i): float(rng.normal() + 2.5 * (i == right))
            for i in rng.choice(live, 4, replace=False)
        }
        b = {int(i): float(rng.normal()) for i in rng.choice(live, 3, replace=False)}
        listed["a"].append(a)
        listed["b"].append(b)
        counts = {
            (int(i), int(age)): 1.0
            for i, age in zip(rng.choice(live, 2), rng.integers(0, 3, 2), strict=True)
        }
        if rng.random() < 0.5:
            counts[right, 0] = 3.0
        requests.append((counts if rng.random() < 0.8 else {}, [right, int(rng.choice(live))]))
    return listed, requests


def test_the_likelihood_equals_a_slow_loop():
    listed, requests = world_of_requests()
    ages = [0, 1, 2]
    chosen = chosen_of(requests, None, ages)
    live = np.flatnonzero(ALIVE).tolist()
    want = []
    for r, (counts, positives) in enumerate(requests):
        memory = {}
        for (row, age), weight in counts.items():
            memory[row] = memory.get(row, 0.0) + weight * 2 ** (-age / PARAMS.half_life)
        p = slow.answer(
            PARAMS, {n: listed[n][r] for n in "ab"}, dict(enumerate(COUNTS)), memory, live
        )
        want.append(np.mean([np.log(p[i]) for i in positives]))
    channels = {name: hits_of(one) for name, one in listed.items()}
    found = log_likelihood(PARAMS, channels, chosen, popularity(COUNTS, ALIVE), len(live))
    assert found == pytest.approx(np.mean(want), abs=1e-7)  # scores of Hits are float32


def test_the_fit_prefers_the_channel_that_knows_and_beats_its_start():
    listed, requests = world_of_requests(300)
    chosen = chosen_of(requests, None, [0, 1, 2])
    channels = {name: hits_of(one) for name, one in listed.items()}
    prior = popularity(COUNTS, ALIVE)
    fit = fit_answer(channels, chosen, prior, int(ALIVE.sum()))
    assert fit.value > fit.start
    weight = {name: fit.params.weights[name] / fit.params.temperatures[name] for name in "ab"}
    assert weight["a"] > 3 * weight["b"]
    again = log_likelihood(fit.params, channels, chosen, prior, int(ALIVE.sum()))
    assert again == pytest.approx(fit.value, abs=1e-9)


def test_constants_survive_packing_and_an_empty_fit_is_refused():
    again = unpack(pack(PARAMS), ["a", "b"])
    np.testing.assert_allclose(pack(again), pack(PARAMS))
    assert again.channels == PARAMS.channels
    none = Chosen(
        np.empty(0, int), np.empty(0, int), np.zeros((0, 1)), np.zeros((0, 1)), np.zeros(1)
    )
    with pytest.raises(ValueError, match="no request to fit"):
        fit_answer({"a": hits_of([])}, none, popularity(COUNTS), 8)


def test_the_shares_of_an_item_are_worked_by_hand():
    """Two channels; row 3 in both, row 1 in the memory alone, row 0 in one channel."""
    channels = {"a": hits_of([{0: 1.0, 3: 0.5}]), "b": hits_of([{3: 2.0}])}
    model = SmoothedMemory(PARAMS, COUNTS, ALIVE, memory_of([("red", 1, 10, 2)]), SECRET)
    answer = model.rank(["red"], channels, 8)
    n_live = int(ALIVE.sum())
    told = dict(
        zip(
            answer.hits.rows[0].tolist(),
            map(dict, origins(PARAMS, answer, channels, 0, n_live)),
            strict=True,
        )
    )
    for shares in told.values():
        assert sum(shares.values()) == pytest.approx(1.0, abs=5 * LEAST)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    probability = model.distribution("red", channels)
    summed = probability * (2 + PARAMS.kappa)
    assert told[1]["memory"] == pytest.approx(2 / summed[1])
    assert not {"a", "b"} & set(told[1])
    # softmax of one item is 1: p_b(3) = 1 − δ + δ/N, and δ/N where it was not returned
    delta = PARAMS.delta
    share = np.exp(0.5 / PARAMS.temperatures["a"])
    share /= share + np.exp(1.0 / PARAMS.temperatures["a"])
    lift_a = PARAMS.weights["a"] * np.log((1 - delta) * share * n_live / delta + 1)
    lift_b = PARAMS.weights["b"] * np.log((1 - delta) * n_live / delta + 1)
    assert told[3]["a"] / told[3]["b"] == pytest.approx(lift_a / lift_b)
    prior = popularity(COUNTS, ALIVE)
    assert told[3]["prior"] == pytest.approx(PARAMS.kappa * PARAMS.epsilon * prior[3] / summed[3])
    assert set(told[0]) - {"prior"} == {"a"}
