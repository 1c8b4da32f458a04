"""Propensities from the randomised bucket, and the weights that they give the
positives of lists.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_examples import SCHEMA, request

from sidar.config import Config
from sidar.data import build, open_dataset, toy
from sidar.data.duck import Duck
from sidar.data.log import LogFacts
from sidar.data.training.examples import write_lists
from sidar.data.training.priors import count_priors
from sidar.data.training.propensity import (
    CLIP,
    DEEPEST,
    Propensities,
    measure_propensities,
    non_increasing,
)


def slow_non_increasing(values: list[float], weights: list[float]) -> list[float]:
    """min over a ≤ i of max over b ≥ i of the mean of a … b: the textbook formula, for
    non-increasing sequences.
    """
    mean = lambda a, b: np.average(values[a : b + 1], weights=weights[a : b + 1])  # noqa: E731
    n = len(values)
    return [min(max(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]


numbers = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 100)), min_size=1, max_size=12)


@settings(deadline=None)
@given(numbers)
def test_pooling_equals_the_min_max_formula(pairs: list[tuple[int, int]]) -> None:
    values, weights = np.array(pairs, float).T
    got = non_increasing(values, weights)
    assert got.tolist() == pytest.approx(
        slow_non_increasing(values.tolist(), weights.tolist()), abs=1e-9
    )
    assert (np.diff(got) <= 1e-9).all()


def measured(
    folder: Path, requests: list[dict], impressions: int = 1, **cfg: object
) -> tuple[Propensities, list[dict]]:
    config = Config.model_validate({"threads": 1, **cfg})
    path = folder / "requests.parquet"
    pq.write_table(pa.Table.from_pylist(requests, schema=SCHEMA), path)
    facts = LogFacts(1, 0, 0, {"impression": impressions}, 0)
    with Duck(folder / "w", "256MB", 1) as duck:
        found = measure_propensities(duck, path, facts)
        write_lists(
            duck, config, path, facts, count_priors(duck, path, 64), folder / "lists.parquet", found
        )
    return found, pq.read_table(folder / "lists.parquet").to_pylist()


def randomised() -> list[dict]:
    """Ten requests of three positions in random order: 8, 4 and 0 clicks; and what
    must not count.
    """
    shuffled = [request(f"r{n}", [int(n < 8), int(n < 4), 0], bucket="random") for n in range(10)]
    others = [
        request("main", [0, 0, 1], positions=[1, 2, 3]),
        request("later", [0, 0, 1], "test", bucket="random"),
        request("nowhere", [1], positions=[0], bucket="random"),
    ]
    return shuffled + others


def test_propensities_are_click_rates_of_the_randomised_bucket(tmp_path: Path) -> None:
    found, _ = measured(tmp_path, randomised())
    assert found.positions.tolist() == [1, 2, 3]
    assert found.impressions.tolist() == [10, 10, 10]
    assert found.clicks.tolist() == [8, 4, 0]
    assert found.p.tolist() == pytest.approx([1.0, 0.5, 0.0])
    weights = found.weights()
    # clipped; deeper counts as the last seen
    assert weights[:5].tolist() == pytest.approx([0.0, 1.0, 2.0, CLIP, CLIP])
    assert len(weights) == DEEPEST + 1


def test_rates_that_rise_are_pooled(tmp_path: Path) -> None:
    clicks = [[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]  # rates 1, 1/4, 1/2, 1/4
    found, _ = measured(
        tmp_path, [request(str(n), c, bucket="random") for n, c in enumerate(clicks)]
    )
    assert found.p.tolist() == pytest.approx([1, 3 / 8, 3 / 8, 1 / 4])


def test_positives_weigh_by_position_with_mean_one_over_training_lists(tmp_path: Path) -> None:
    requests = [
        *randomised(),
        request("deep", [1, 0], positions=[2, 10**6]),
        request("deeper", [1, 3], positions=[10**6, 1]),
        request("valid", [1, 1], "valid", positions=[3, 1]),
    ]
    _, lists = measured(tmp_path, requests)
    raw = {1: 1.0, 2: 2.0, 3: CLIP, 10**6: CLIP}
    shown = {r["request_id"]: dict(zip(r["rows"], r["positions"], strict=True)) for r in requests}
    train = [
        (r["request_id"], row) for r in lists if r["split"] == "train" for row in r["positives"]
    ]
    known = [raw[shown[name][row]] for name, row in train if shown[name][row]]
    for made in lists:
        positions = [shown[made["request_id"]][row] for row in made["positives"]]
        want = [
            raw[p] / np.mean(known) if p and made["split"] == "train" else 1.0 for p in positions
        ]
        assert made["positive_weights"] == pytest.approx(want, rel=1e-6), made["request_id"]
    every = [w for r in lists if r["split"] == "train" for w in r["positive_weights"]]
    assert np.mean(every) == pytest.approx(1.0, rel=1e-6)
    # the order, at position 1
    assert next(r for r in lists if r["request_id"] == "deeper")["positive_weights"][0] < 1


def test_sampled_negatives_keep_the_weights(tmp_path: Path) -> None:
    found, lists = measured(tmp_path, randomised(), preference={"negatives": "sampled"})
    assert found.p[1] == pytest.approx(0.5)
    assert all(len(r["positive_weights"]) == len(r["positives"]) and r["negatives"] for r in lists)


def test_what_cannot_be_measured_names_the_option(tmp_path: Path) -> None:
    for requests, says in (
        ([request("a", [1, 0])], "does not exist"),
        (
            [request("a", [1, 0], bucket="random", positions=[0, 0])],
            "does not exist or has no positions",
        ),
        ([request("a", [0, 0], bucket="random")], "has no clicks"),
    ):
        with pytest.raises(
            ValueError, match=rf"preference\.debias.*'random'.*{says}.*events\.columns"
        ):
            measured(tmp_path, requests)
    with pytest.raises(ValueError, match=r"preference\.debias.*no impressions"):
        measured(tmp_path, randomised(), impressions=0)


def test_the_data_stage_writes_weights_and_reports_propensities(tmp_path: Path) -> None:
    paths = toy.write_inputs(tmp_path)
    reports = {}
    for debias in ("none", "ips"):
        cfg = Config.model_validate({"threads": 1, "preference": {"debias": debias}})
        cfg.catalogue.path, cfg.events.path = str(paths["catalogue"]), str(paths["events"])
        reports[debias] = build(cfg, tmp_path / debias)["lists"]
    assert "propensities" not in reports["none"]
    assert "positive_weights" not in pq.read_schema(tmp_path / "none" / "lists.parquet").names
    said = reports["ips"].pop("propensities")
    assert (
        json.loads((tmp_path / "ips" / "report.json").read_text())["lists"]["propensities"] == said
    )
    assert reports["ips"] == reports["none"]
    assert said["p"][0] == 1.0
    assert said["p"] == sorted(said["p"], reverse=True)
    assert len(said["p"]) == len(said["positions"]) == len(said["clicks"])
    assert said["positions"] == sorted(set(said["positions"]))
    train = open_dataset(tmp_path / "ips").lists("train")
    assert train.schema.field("positive_weights").type.value_type == pa.float32()
    plain = open_dataset(tmp_path / "none").lists("train")
    assert train.drop_columns("positive_weights").equals(plain)
    weights = train.column("positive_weights").combine_chunks().flatten().to_numpy()
    assert weights.mean() == pytest.approx(1.0, rel=1e-5)
    assert weights.min() < 1 < weights.max()
    valid = (
        open_dataset(tmp_path / "ips")
        .lists("valid")
        .column("positive_weights")
        .combine_chunks()
        .flatten()
    )
    assert set(valid.to_pylist()) == {1.0}
