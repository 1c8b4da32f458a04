from __future__ import annotations

import numpy as np

from sidar.lm import Candidate, to_candidates
from sidar.types import SemanticIds

#: rows 0 and 1 share an SID, 2 and 3 another, 6 has none
CODES = np.array([[1, 1], [1, 1], [2, 2], [2, 2], [3, 3], [4, 4], [-1, -1]], np.int32)
SIDS = SemanticIds(CODES, np.array([2] * 6 + [0], np.int32), (8, 8))


def test_lists_are_formed_on_sids_and_what_is_lost_is_counted() -> None:
    made = to_candidates([0, 1, 6], [1, 3, 1], [2, 3, 1, 4], SIDS)
    assert made.listed == [Candidate((1, 1), True, 3), Candidate((2, 2)), Candidate((3, 3))]
    assert (made.shared, made.repeated, made.without_sid) == (1, 2, 1)


def test_cuts_keep_the_order() -> None:
    made = to_candidates([0, 2, 4], [3, 2, 1], [5], SIDS, max_positives=2, max_negatives=0)
    assert [c.codes for c in made.listed] == [(1, 1), (2, 2)]


def test_a_positive_that_was_cut_off_is_no_negative() -> None:
    made = to_candidates([0, 2], [3, 2], [3, 5], SIDS, max_positives=1)
    assert [c.codes for c in made.listed] == [(1, 1), (4, 4)]
    assert made.shared == 1


def test_positives_without_tiers_are_clicks() -> None:
    assert to_candidates([0], [], [], SIDS).listed == [Candidate((1, 1), True, 1)]
    assert to_candidates([6], [1], [], SIDS).listed == []
