from __future__ import annotations

import numpy as np
import pytest

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


def test_weights_follow_their_rows_and_the_first_of_one_sid_counts() -> None:
    made = to_candidates(
        [0, 1, 6, 4],
        [1, 3, 1, 1],
        [2, 1, 3, 5],
        SIDS,
        positive_weights=[2, 3, 4, 5],
        negative_weights=[0.5, 9, 0.7, 1],
    )
    assert made.listed == [
        Candidate((1, 1), True, 3, 2),  # of row 0, though the tier is row 1's
        Candidate((3, 3), True, 1, 5),
        Candidate((2, 2), weight=0.5),  # of row 2, not of row 3
        Candidate((4, 4), weight=1),
    ]
    one_side = to_candidates([0], [1], [2], SIDS, negative_weights=[0.5])
    assert [c.weight for c in one_side.listed] == [1, 0.5]


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="positive_weights has 1 entries for 2 positives"):
        to_candidates([0, 2], [1, 1], [], SIDS, positive_weights=[1.0])
    with pytest.raises(ValueError, match="negative_weights has 2 entries for 1 negatives"):
        to_candidates([0], [1], [2], SIDS, negative_weights=[1.0, 1.0])
