"""The toy shop is what it says it is, today and tomorrow."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sidar.data import toy
from sidar.types import ACTIONS, CATALOGUE_SCHEMA, INTERACTIONS_SCHEMA


def test_sixty_four_items_on_eight_shelves() -> None:
    catalogue = toy.catalogue()
    assert len(catalogue) == 64
    assert catalogue.table.schema.equals(CATALOGUE_SCHEMA)
    assert len({tuple(c) for c in catalogue.column("category")}) == 8
    assert sum(p is None for p in catalogue.column("price")) == 8
    assert sum(b is None for b in catalogue.column("brand")) == 4
    assert len(set(catalogue.column("title"))) == 64


def test_the_log_is_ordinary_and_its_launches_are_late() -> None:
    log = toy.interactions().to_pylist()
    assert toy.interactions().schema.equals(INTERACTIONS_SCHEMA)
    counts = [sum(r["action"] == a for r in log) for a in range(len(ACTIONS))]
    assert counts == sorted(counts, reverse=True)
    assert counts[3] > 50
    assert min(r["ts"] for r in log if r["row"] % 8 == 7) >= toy.FIRST_DAY + 4 * toy.DAY_US
    assert {r["bucket"] for r in log} == {"", "random"}
    shown = {}
    for r in log:
        if r["action"] == 0:
            shown.setdefault(r["request_id"], []).append(r["row"])
    assert all(len(rows) == len(set(rows)) == 8 for rows in shown.values())


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    toy.events.cache_clear()
    first = toy.events().to_pylist()
    toy.events.cache_clear()
    assert toy.events().to_pylist() == first
    assert toy.events(requests_per_day=4, seed=1).num_rows < len(first)
    digests = []
    for name in ("a", "b"):
        paths = toy.write_inputs(tmp_path / name)
        digests.append(
            {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in paths.items()}
        )
    assert digests[0] == digests[1]


def test_judged_queries_are_never_typed() -> None:
    typed = {frozenset(q.split()) for q in toy.log_queries()}
    for role, count in (("test", 8), ("valid", 4)):
        judged = toy.judged(role)
        assert len(judged) == count
        for prompt in judged.prompts:
            words = frozenset(prompt.query.split())
            assert all(len(words & t) < 0.8 * len(words | t) for t in typed)
        assert all(max(graded.values()) > min(graded.values()) for graded in judged.qrels.values())
