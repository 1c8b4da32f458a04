"""The alarms: silent for more of the same, whatever the delivery's size; loud for another shelf, a
pile, a grave.
"""

import numpy as np
import pytest

from sidar.config import AlarmsConfig, SidConfig
from sidar.sid import RqKmeans, RqVae, Sarq
from sidar.sid.lifecycle.alarms import alarms
from sidar.sid.lifecycle.ledger import Ledger, squared_errors, write_up
from sidar.sid.lifecycle.reference import make_reference
from sidar.types import SemanticIds, SidInputs

SHELVES = 24


@pytest.fixture(scope="module")
def fitted():
    """2,000 items of 16 of 24 shelves: tokenizer, table, reference, and a source of
    further items.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(SHELVES, 24)) * 1.2

    def items(n, shelves, seed):
        draw = np.random.default_rng(seed)
        return (centres[draw.choice(shelves, n)] + draw.normal(size=(n, 24))).astype(np.float32)

    old = items(2000, range(16), 1)
    tokenizer = RqKmeans((64, 32), seed=0).fit(SidInputs(old))
    sids = tokenizer.encode(SidInputs(old))
    reference = make_reference(SidConfig(), tokenizer, sids, SidInputs(old), seed=0)
    return tokenizer, old, reference, items


def ring(fitted, new, **limits):
    tokenizer, old, reference, _ = fitted
    x = np.concatenate([old, new])
    ids = [f"p{i}" for i in range(len(x))]
    sids = tokenizer.encode(SidInputs(x))
    cause = np.where(np.arange(len(x)) < len(old), "fit", "new").astype(object)
    ledger = write_up(
        SidInputs(x, item_ids=ids), tokenizer, sids, np.arange(len(x)) < len(old), cause
    )
    found = alarms(sids, ids, ledger, reference, AlarmsConfig(**limits))
    return {alarm.name: alarm for alarm in found}


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_more_of_the_same_rings_nothing(fitted, n):
    for seed in (11, 12, 13):
        found = ring(fitted, fitted[3](n, range(16), seed), growth=5.0)
        assert not any(alarm.rings for alarm in found.values()), found


def test_another_shelf_rings_both_tests_of_drift(fitted):
    found = ring(fitted, fitted[3](200, range(16, 24), 2))
    assert found["error"].rings
    assert found["error"].value > 0.3
    assert "fit the codebooks anew" in found["error"].says
    assert found["codes"].rings
    assert found["codes"].p < 0.01


def test_more_of_one_known_shelf_rings_the_codes_alone(fitted):
    found = ring(fitted, fitted[3](200, [3], 5))
    assert found["codes"].rings
    assert not found["error"].rings


def error_of(fitted, tokenizer, new, counts):
    """The alarm ``error`` for ``new`` items without a click, and the table with the old ones."""
    old = fitted[1]
    inputs = SidInputs(old, counts=counts)
    sids = tokenizer.fit(inputs).encode_catalogue(inputs)
    reference = make_reference(SidConfig(), tokenizer, sids, inputs, seed=0)
    ids = [f"p{i}" for i in range(len(old) + len(new))]
    both = SidInputs(np.concatenate([old, new]), counts=np.pad(counts, (0, len(new))), item_ids=ids)
    was = np.arange(len(ids)) < len(old)
    table = tokenizer.encode(both)
    ledger = write_up(both, tokenizer, table, was, np.where(was, "fit", "new").astype(object))
    return alarms(table, ids, ledger, reference, AlarmsConfig())[0], both, table


def test_short_sids_of_cold_items_are_no_drift(fitted):
    """SARQ gives an item without clicks few codes; what those keep is less, whatever the codebooks
    are worth.
    """
    counts = np.random.default_rng(5).zipf(1.6, 2000).clip(0, 1000)
    sarq = Sarq(RqKmeans((64, 32, 16), seed=0), 2, min_levels=1)
    found, both, table = error_of(fitted, sarq, fitted[3](300, range(16), 21), counts)
    assert table.lengths[2000:].mean() < table.lengths[:2000].mean() - 0.5
    lost = squared_errors(sarq, both.vectors, table.codes)
    assert lost[2000:].mean() > 1.2 * lost[:2000].mean()
    assert abs(found.value) < 0.1
    assert not found.rings
    strange, _, _ = error_of(fitted, sarq, fitted[3](200, range(16, 24), 22), counts)
    assert strange.rings
    assert strange.value > 0.3


def test_where_the_reference_is_of_fitted_items_the_error_never_rings(fitted):
    """A training is not done twice for a yardstick, and codebooks flatter the items that they were
    fitted to.
    """
    small = {"hidden": [32], "latent": 16, "steps": 60, "batch_size": 256, "precision": "fp32"}
    found, _, _ = error_of(
        fitted, RqVae((64, 32), options=small), fitted[3](200, range(16, 24), 23), np.ones(2000)
    )
    assert found.value > 0.2
    assert found.p < 1e-6
    assert not found.rings
    assert "fitted items lose, which any new item exceeds: this never rings" in found.says


def test_a_pile_of_copies_rings_the_buckets(fitted):
    copies = np.repeat(fitted[3](1, range(16), 4), 400, axis=0)
    found = ring(fitted, copies)
    assert found["largest"].rings
    assert found["largest"].value >= 400
    assert found["growth"].rings
    assert not ring(fitted, copies[:20])["largest"].rings


def test_a_few_items_are_not_tested_and_no_new_ones_say_so(fitted):
    found = ring(fitted, fitted[3](29, range(16, 24), 2))
    assert (found["error"].value, found["codes"].rings) == (None, False)
    assert "fewer than alarms.least = 30" in found["error"].says
    none = ring(fitted, fitted[3](0, range(16), 2))
    assert none["largest"].says == "no new items"
    assert none["growth"].value == pytest.approx(0)


def test_an_effect_below_its_limit_stays_silent_however_sure(fitted):
    found = ring(fitted, fitted[3](500, range(16, 24), 2), error=9.0, codes=1.0)
    assert found["error"].p < 1e-6
    assert not found["error"].rings
    assert not found["codes"].rings


def test_tombstones_count_and_an_sid_without_a_ledger_line_is_an_error(fitted):
    _, _, reference, _ = fitted
    codes = np.full((10, 2), -1, np.int32)
    codes[:4] = 0
    sids = SemanticIds(codes, np.repeat([2, 0], [4, 6]).astype(np.int32), (64, 32))
    ids = np.array([f"p{i}" for i in range(10)], object)
    line = Ledger(
        ids[:4],
        np.zeros(4, np.uint64),
        np.zeros(4, np.float32),
        np.ones(4, bool),
        np.full(4, "fit", object),
    )
    graves = {alarm.name: alarm for alarm in alarms(sids, ids, line, reference, AlarmsConfig())}[
        "tombstones"
    ]
    assert graves.rings
    assert graves.value == pytest.approx(0.6)
    assert "6 of 10 rows" in graves.says
    short = Ledger(ids[:3], line.vector[:3], line.error[:3], line.fitted[:3], line.cause[:3])
    with pytest.raises(ValueError, match="item 'p3' has an SID but no line in the ledger"):
        alarms(sids, ids, short, reference, AlarmsConfig())
