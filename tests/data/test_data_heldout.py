"""Queries that training must not see, against a brute-force Jaccard."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import reference_data as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.data.duck import Duck
from sidar.data.judgments.heldout import found_in, hold_out


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Duck:
    return Duck(tmp_path_factory.mktemp("held"), "256MB", 1)


def held(duck: Duck, logged: list[str], real: list[str], exact: list[str] = ()) -> set[str]:
    duck.register("log", pa.table({"query": pa.array(logged, pa.string())}))
    count = hold_out(duck, "log", real, list(exact))
    found = {query for (query,) in duck.rows("SELECT query FROM held_out")}
    assert count == len(found)
    return found


queries = st.lists(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join), max_size=12
)


@settings(deadline=None, max_examples=60)
@given(queries, queries)
def test_prefix_filtering_finds_what_brute_force_finds(
    duck: Duck, logged: list[str], real: list[str]
) -> None:
    want = {
        query
        for query in logged
        if any(slow.jaccard(query, judged) >= 0.8 - 1e-9 for judged in real)
    }
    assert held(duck, logged, real) == want


@pytest.mark.parametrize(
    ("query", "judged", "caught"),
    [
        ("Red-Shoes, for MEN", "men red shoes for", True),
        ("red shoes for men size 9", "red shoes for men", False),  # 4 of 6
        ("red shoes for men 9", "red shoes for men", True),  # 4 of 5: exactly .8
        ("Café Noir", "cafe\u0301 noir", True),  # composed and decomposed
        ("广场舞 服装女", "服装女 广场舞", True),
        ("广场舞", "广场", False),  # 2 of 3 characters
        ("???", "!!", False),  # nothing left to compare
    ],
)
def test_what_reads_like_a_judged_query(duck: Duck, query: str, judged: str, caught: bool) -> None:
    assert held(duck, [query, "something else"], [judged]) == ({query} if caught else set())


def test_simulated_queries_are_matched_by_their_text_only(duck: Duck) -> None:
    logged = ["Red  shoes", "shoes red", "red shoes big"]
    assert held(duck, logged, [], ["red shoes"]) == {"Red  shoes"}
    assert held(duck, logged, ["red shoes"], ["red shoes big"]) == set(logged)
    assert held(duck, logged, [], []) == set()


def test_a_large_log_against_many_judged_queries_stays_fast(tmp_path: Path) -> None:
    with Duck(tmp_path, "512MB", 1) as big:
        words = "('w' || (hash(i, {0}) % 3000))"
        three = " || ' ' || ".join(words.format(n) for n in range(3))
        # common words
        big.run(
            f"CREATE TABLE log AS SELECT 'for the ' || {three} AS query FROM range(100000) t(i)"
        )
        judged = [q for (q,) in big.rows("SELECT query FROM log ORDER BY hash(query) LIMIT 500")]
        assert hold_out(big, "log", judged, []) >= len(set(judged))


def test_an_amount_of_memory_that_is_none_names_the_key(tmp_path):
    with pytest.raises(ValueError, match=r"events\.memory: '1XB'"):
        Duck(tmp_path, "1XB")


def test_pairs_of_a_log_and_held_out_queries_are_not_kept(tmp_path: Path) -> None:
    with Duck(tmp_path, "256MB", 1) as duck:
        duck.register("asked", pa.table({"query": ["red lamp", "mug"]}))
        assert found_in(duck, "asked", ["mug"], "exact") == {"mug"}
        assert hold_out(duck, "asked", ["red lamp"], []) == 1
        tables = {name for (name,) in duck.rows("SELECT table_name FROM duckdb_tables()")}
        assert "held_out" in tables
        assert "alike" not in tables
