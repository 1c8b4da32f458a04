"""Random IDs: the control that must lose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from shops import topics

from sidar.sid import RandomIds, RqKmeans, load_tokenizer
from sidar.sid.quality import report
from sidar.types import SidInputs


def test_codes_are_uniform_independent_and_the_items_own(tmp_path: Path) -> None:
    x = topics(4000)
    tokenizer = RandomIds((16, 8), seed=1).fit(SidInputs(x))
    codes = tokenizer.encode(SidInputs(x)).codes
    cells = np.bincount(codes[:, 0] * 8 + codes[:, 1], minlength=128)
    assert stats.chisquare(cells).pvalue > 1e-3
    np.testing.assert_array_equal(tokenizer.encode(SidInputs(x[::-1])).codes, codes[::-1])
    assert (RandomIds((16, 8), seed=2).fit(SidInputs(x)).encode(SidInputs(x)).codes != codes).any(
        axis=1
    ).mean() > 0.9
    tokenizer.save(tmp_path)
    np.testing.assert_array_equal(load_tokenizer(tmp_path).encode(SidInputs(x)).codes, codes)


def test_they_keep_nothing_of_the_item() -> None:
    x = topics(2000)
    lost = []
    for tokenizer in (RandomIds((16, 8, 4)), RqKmeans((16, 8, 4))):
        sids = tokenizer.fit(SidInputs(x)).encode(SidInputs(x))
        lost.append(
            report(sids, vectors=x, tokenizer=tokenizer)["reconstruction"]["share_of_variance_lost"]
        )
    assert lost[0] > 0.95 > 0.6 > lost[1]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="call fit first"):
        RandomIds((4, 2)).encode(SidInputs(topics(5)))
    with pytest.raises(ValueError, match="catalogue is empty"):
        RandomIds((4, 2)).fit(SidInputs(topics(5)[:0]))
    with pytest.raises(ValueError, match="must be positive"):
        RandomIds(())
