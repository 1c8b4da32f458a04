"""The diagnosis against small numbers by hand."""

import json

import numpy as np
import pytest

from sidar.ranker.diagnosis import Shown, diagnose, page_of, pair_accuracy


def test_pairs_in_the_right_order_by_hand():
    # request 0: (3 > 1), (3 > 2 equal), so .75 of two pairs; request 1 has no pair
    truth, score = np.array([1.0, 0, 0, 1]), np.array([3.0, 1, 3, 9])
    assert pair_accuracy(np.array([0, 3, 4]), score, truth) == 0.75
    assert np.isnan(pair_accuracy(np.array([0, 1]), score, truth))


def shown(**more):
    chosen = np.array([True, False, False, True] * 10)
    score = np.where(chosen, 1.0, -1.0)
    position = np.tile([1, 2, 3, 12], 10)
    popularity = np.tile(["head", "tail", "cold", "head"], 10)
    starts = np.arange(0, 41, 4)
    return Shown(starts, score, chosen, position, popularity, np.zeros(40), **more)


def test_the_report_splits_by_position_and_popularity():
    report = diagnose(shown())
    assert [row["name"] for row in report["position"]] == ["1", "2", "3", "10+"]
    assert [row["chosen"] for row in report["position"]] == [1, 0, 0, 1]
    assert [row["name"] for row in report["popularity"]] == ["head", "tail", "cold"]
    assert report["order"]["ranker"] == {"chosen": 1.0}
    assert report["order"]["prior"] == {"chosen": 0.5}
    assert report["order"]["logged"] == {"chosen": 0.5}
    assert report["calibration"]["ece"] < 0.1
    assert "relevance" not in json.dumps(report)


def test_simulated_traffic_brings_the_truth_and_a_page():
    relevance = np.tile([0.0, 1.0, 0.0, 0.0], 10)
    report = diagnose(shown(relevance=relevance, p_click=relevance / 2))
    assert report["order"]["ranker"]["relevance"] == pytest.approx(1 / 6)  # ties with one of three
    assert report["position"][1]["p_click"] == 0.5
    page = page_of({"answer": report})
    assert "| pairs in the right order by | chosen | relevance |" in page
    assert "| position | items | predicted | chosen | relevance | p_click |" in page
