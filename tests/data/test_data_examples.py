"""SFT rows, preference lists, sampled negatives and priors."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference_data as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.config import Config
from sidar.data import toy
from sidar.data.duck import Duck
from sidar.data.log import LogFacts
from sidar.data.training.examples import (
    MAX_STORED_NEGATIVES,
    sample_negatives,
    why_cut,
    write_lists,
    write_sft,
)
from sidar.data.training.priors import Priors, count_priors
from sidar.lm.candidates import to_candidates
from sidar.types import SemanticIds

REQUEST = {
    "ts": 1,
    "day": 1,
    "user_id": "u",
    "session_id": "",
    "bucket": "",
    "profile": "p",
    "history": [9],
    "query": "q",
}
SCHEMA = pa.schema(
    [
        (c, pa.string())
        for c in ("request_id", "user_id", "session_id", "query", "bucket", "profile", "split")
    ]
    + [
        ("ts", pa.int64()),
        ("day", pa.int32()),
        ("history", pa.list_(pa.int32())),
        ("rows", pa.list_(pa.int32())),
    ]
    + [("positions", pa.list_(pa.int32())), ("actions", pa.list_(pa.int8()))]
)


def request(name: str, actions: list[int], split: str = "train", **more: object) -> dict:
    n = len(actions)
    shown = {"rows": list(range(n)), "positions": list(range(1, n + 1)), "actions": actions}
    return REQUEST | shown | {"request_id": name, "split": split} | more


def derive(
    folder: Path, requests: list[dict], *, impressions: int = 1, **cfg: object
) -> tuple[list[dict], list[dict], Priors]:
    config = Config.model_validate({"threads": 1, **cfg})
    path = folder / "requests.parquet"
    pq.write_table(pa.Table.from_pylist(requests, schema=SCHEMA), path)
    facts = LogFacts(1, 0, 0, {"impression": impressions}, 0)
    with Duck(folder / "w", "256MB", 1) as duck:
        priors = count_priors(duck, path, 64)
        write_sft(duck, path, folder / "sft.parquet")
        write_lists(duck, config, path, facts, priors, folder / "lists.parquet")
    return (
        pq.read_table(folder / "sft.parquet").to_pylist(),
        pq.read_table(folder / "lists.parquet").to_pylist(),
        priors,
    )


def test_positives_go_by_tier_then_position_and_negatives_by_position(tmp_path: Path) -> None:
    sft, lists, _ = derive(tmp_path, [request("a", [0, 1, 3, 0, 2, 1, 3, 0])])
    assert sft == [
        {"source": "query", "request_id": "a", "ts": 1, "query": "q", "history": [9],
        "profile": "p",
         "positives": [2, 6, 4, 1, 5], "tiers": [3, 3, 2, 1, 1]}
    ]  # fmt: skip
    assert lists[0]["positives"] == sft[0]["positives"]
    assert lists[0]["tiers"] == sft[0]["tiers"]
    assert lists[0]["negatives"] == [0, 3, 7]
    assert lists[0]["negative_positions"] == [1, 4, 8]
    assert lists[0]["split"] == "train"


def test_positives_are_stored_uncut(tmp_path: Path) -> None:
    busy = request("a", [1] * 10 + [3] + [0] * 50)
    sft, lists, _ = derive(
        tmp_path, [busy], preference={"max_positives": 2}, sft={"max_positives": 4}
    )
    assert sft[0]["positives"] == lists[0]["positives"] == [10, *range(10)]
    assert sft[0]["tiers"] == lists[0]["tiers"] == [3] + [1] * 10
    assert lists[0]["negatives"] == list(range(11, 11 + MAX_STORED_NEGATIVES))


@pytest.mark.parametrize("negatives", ["shown", "skip_above", "sampled"])
def test_no_negative_is_an_item_that_the_request_touched_or_shares_its_sid(
    tmp_path: Path, negatives: str
) -> None:
    """The wire: what the data stage writes, packed as alignment packs it, under a cap of 8 with 20
    clicks.
    """
    clicked, shown = [1, 0] * 20, [0] * 10
    requests = [request(f"r{n}", clicked + shown) for n in range(150)]
    _, lists, _ = derive(
        tmp_path, requests, preference={"negatives": negatives, "max_positives": 8}
    )
    # rows 0 to 3 are one SID, …
    codes = np.stack([np.arange(64) // 4, np.zeros(64, int)], axis=1).astype(np.int32)
    sids = SemanticIds(codes, np.full(64, 2, np.int32), (16, 1))
    touched = set(range(0, 40, 2))
    formed = 0
    for made in lists:
        assert set(made["positives"]) == touched
        assert not touched & set(made["negatives"])
        packed = to_candidates(
            made["positives"], made["tiers"], made["negatives"], sids, max_positives=8
        )
        wrong = {c.codes for c in packed.listed if not c.is_positive}
        assert not wrong & {sids.tuple_of(row) for row in touched}
        assert sum(c.is_positive for c in packed.listed) == 8
        formed += len(wrong)
    # above the lowest click all share the SID of a click
    assert bool(formed) == (negatives != "skip_above")


def test_a_folder_of_cut_lists_is_told_from_one_where_nothing_was_cut(tmp_path: Path) -> None:
    _, lists, _ = derive(tmp_path, [request("a", [1] * 5 + [0])])
    assert len(lists[0]["positives"]) == 5
    older = {"preference.max_positives": 8, "sft.max_positives": 8}
    assert why_cut(tmp_path, older) is None
    assert why_cut(tmp_path, older | {"preference.max_positives": 6}) is None
    assert why_cut(tmp_path, {}) is None  # written by today's version
    assert why_cut(tmp_path, older | {"preference.max_positives": 5}) == (
        "an older version cut the positives in lists.parquet at preference.max_positives, so "
        "clicked items may be negatives"
    )
    assert "sft.parquet" in str(why_cut(tmp_path, older | {"sft.max_positives": 4}))


def test_which_requests_teach_what(tmp_path: Path) -> None:
    requests = [
        request("train", [1, 0]),
        request("valid", [1, 0], "valid"),
        request("test", [1, 0], "test"),
        request("none", [1, 0], "none"),
        request("nothing clicked", [0, 0]),
        request("no prompt", [1, 0], query="", history=[]),
        request("history only", [1, 0], query=""),
        request("query only", [1], history=[]),
    ]
    sft, lists, priors = derive(tmp_path, requests)
    taught = {"train", "history only", "query only"}
    assert {r["request_id"] for r in sft} == taught
    assert {r["request_id"]: r["split"] for r in lists} == dict.fromkeys(taught, "train") | {
        "valid": "valid"
    }
    assert next(r for r in lists if r["request_id"] == "query only")["negatives"] == []
    # training requests only, whether they teach or not
    assert (priors.impressions[0], priors.clicks[0]) == (5, 4)


def test_shown_needs_impressions_and_names_the_other_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no impressions.*'sampled'.*'beam'"):
        derive(tmp_path, [request("a", [1])], impressions=0)
    _, lists, _ = derive(
        tmp_path, [request("a", [1])], impressions=0, preference={"negatives": "beam"}
    )
    assert lists[0]["negatives"] == []


def test_skip_above_keeps_what_stood_above_the_lowest_click(tmp_path: Path) -> None:
    requests = [
        request("middle", [0, 1, 0, 3, 0, 0]),
        request("top", [1, 0, 0]),
        request("unknown among them", [0, 0, 1, 0], positions=[0, 1, 2, 3]),
        request("click without position", [1, 0, 0], positions=[0, 1, 2]),
        request("one of two known", [0, 0, 2, 1], positions=[1, 5, 3, 0]),
        # the second click is cut at packing and still the lowest
        request("capped", [1, 0, 0, 1], "valid"),
    ]
    _, lists, _ = derive(
        tmp_path, requests, preference={"negatives": "skip_above", "max_positives": 2}
    )
    found = {r["request_id"]: (r["negatives"], r["negative_positions"]) for r in lists}
    assert found == {
        "middle": ([0, 2], [1, 3]),
        "top": ([], []),
        "unknown among them": ([1], [1]),
        "click without position": ([], []),
        "one of two known": ([0], [1]),
        "capped": ([1, 2], [2, 3]),
    }
    _, lists, _ = derive(
        tmp_path, requests, preference={"negatives": "skip_above", "max_positives": 1}
    )
    assert lists[-1]["positives"] == [0, 3]
    assert lists[-1]["negatives"] == [1, 2]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=9),
        min_size=1,
    )
)
def test_skip_above_equals_a_loop(shown: list[list[tuple[int, int]]]) -> None:
    requests = [request("always", [1, 0])]
    for number, one in enumerate(shown):
        requests.append(request(str(number), [a for a, _ in one], positions=[p for _, p in one]))
    with tempfile.TemporaryDirectory() as folder:
        _, lists, _ = derive(Path(folder), requests, preference={"negatives": "skip_above"})
    for made in lists:
        one = next(r for r in requests if r["request_id"] == made["request_id"])
        places = list(zip(one["rows"], one["positions"], one["actions"], strict=True))
        lowest = max(p for _, p, a in places if a > 0)
        assert made["negatives"] == [r for r, p, a in places if a == 0 and 0 < p < lowest]


def test_skip_above_needs_impressions_and_positions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'skip_above' but the log has no impressions"):
        derive(tmp_path, [request("a", [1])], impressions=0, preference={"negatives": "skip_above"})
    with pytest.raises(
        ValueError, match=r"'skip_above' but the log has no positions.*events\.columns\.position"
    ):
        derive(
            tmp_path,
            [request("a", [1, 0], positions=[0, 0])],
            preference={"negatives": "skip_above"},
        )


def test_sampled_lists_are_seeded_and_avoid_positives(tmp_path: Path) -> None:
    requests = [request(f"r{n}", [1, 1]) for n in range(200)]
    drawn = []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, lists, _ = derive(
            folder, requests, impressions=0, seed=seed, preference={"negatives": "sampled"}
        )
        drawn.append({r["request_id"]: r["negatives"] for r in lists})
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({tuple(n) for n in drawn[0].values()}) == 200
    assert all(not {0, 1} & set(n) for n in drawn[0].values())


def test_a_list_draws_alike_in_any_company() -> None:
    keys, taken = np.arange(50, dtype=np.uint64), pa.array([[1]] * 50, pa.list_(pa.int32()))
    together = sample_negatives(keys, taken, np.ones(64), 8, 3)
    alone = sample_negatives(keys[20:21], taken.slice(20, 1), np.ones(64), 8, 3)
    assert alone.to_pylist() == together.slice(20, 1).to_pylist()


positives = st.lists(st.lists(st.integers(0, 19), unique=True, max_size=6), min_size=1, max_size=5)


@settings(deadline=None)
@given(positives, st.integers(1, 8), st.integers(0, 3))
def test_sampled_negatives_are_distinct_known_and_no_positives(
    taken: list[list[int]], count: int, seed: int
) -> None:
    weights = np.arange(20.0)  # row 0 has no weight
    keys = np.arange(len(taken), dtype=np.uint64)
    drawn = sample_negatives(
        keys, pa.array(taken, pa.list_(pa.int32())), weights, count, seed
    ).to_pylist()
    assert len(drawn) == len(taken)
    for negatives, positive in zip(drawn, taken, strict=True):
        assert len(set(negatives)) == len(negatives) <= count
        assert not set(negatives) & {*positive, 0}
        assert all(0 < row < 20 for row in negatives)


def test_sampling_beside_one_very_long_list_costs_no_padding() -> None:
    positives = pa.array(
        [[row] for row in range(2_000)] + [list(range(20_000))], pa.list_(pa.int32())
    )
    keys = np.arange(len(positives), dtype=np.uint64)
    tracemalloc.start()
    drawn = sample_negatives(keys, positives, np.ones(40_000), 8, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # padded to the longest list it would be 160 MB
    assert min(drawn[-1].as_py()) >= 20_000


def test_sampled_negatives_follow_the_weights() -> None:
    weights = np.array([1.0, 0.0, 2.0, 5.0])
    nobody = pa.array([[]] * 20_000, pa.list_(pa.int32()))
    first = (
        sample_negatives(np.arange(20_000, dtype=np.uint64), nobody, weights, 1, 0)
        .flatten()
        .to_numpy()
    )
    share = np.bincount(first, minlength=4) / len(first)
    np.testing.assert_allclose(share, weights / 8, atol=0.011)  # three standard errors


def test_priors_count_once_per_request_with_the_highest_action(tmp_path: Path) -> None:
    requests = [
        request("a", [0, 1, 2, 3]),
        request("b", [3, 1, 0]),
        request("c", [3] * 5, "valid", day=7),
    ]
    _, _, priors = derive(tmp_path, requests)
    assert priors.impressions[:5].tolist() == [2, 2, 2, 1, 0]
    assert priors.clicks[:5].tolist() == [1, 2, 1, 1, 0]
    assert priors.carts[:5].tolist() == [1, 0, 1, 1, 0]
    assert priors.orders[:5].tolist() == [1, 0, 0, 1, 0]
    assert priors.first_day[:6].tolist() == [1, 1, 1, 1, 7, 0]
    np.testing.assert_allclose(priors.prior[:5], np.log([14, 3, 5, 14, 1]), rtol=1e-6)
    priors.save(tmp_path / "p.parquet")
    again = Priors.load(tmp_path / "p.parquet")
    assert again.clicks.tolist() == priors.clicks.tolist()
    assert pq.read_table(tmp_path / "p.parquet").column("prior").type == pa.float32()


def test_popularity_labels_by_share_of_clicks() -> None:
    clicks = np.array([0, 50, 30, 10, 10, 0])
    nothing = np.zeros(6, dtype=np.int64)
    labels = Priors(nothing, clicks, nothing, nothing, nothing).popularity()
    assert labels.tolist() == ["cold", "head", "torso", "torso", "tail", "cold"]
    assert Priors(*[nothing] * 5).popularity().tolist() == ["cold"] * 6


def test_the_toy_log_teaches_what_the_slow_twin_says(tmp_path: Path) -> None:
    from sidar.data import build, open_dataset

    paths = toy.write_inputs(tmp_path)
    cfg = Config.model_validate({"threads": 1, "privacy": {"hash_users": False}})
    cfg.catalogue.path, cfg.events.path = str(paths["catalogue"]), str(paths["events"])
    build(cfg, tmp_path / "data")
    lists = {r["request_id"]: r for r in open_dataset(tmp_path / "data").lists().to_pylist()}
    twin = {name: r for (_, name), r in slow.group_requests(toy.interactions(), 20).items()}
    assert lists
    for name, made in lists.items():
        items = twin[name]["items"]
        assert made["positives"] == slow.best_first(items)
        assert made["history"] == twin[name]["history"]
        negatives = sorted(
            (position, row) for row, (position, action) in items.items() if action == 0
        )
        assert list(zip(made["negative_positions"], made["negatives"], strict=True)) == negatives
