"""Queries that training must not see: judged and held-out queries, and whatever reads like them.

A logged query *reads like* a held-out real query when the Jaccard similarity of their token sets is
at least .8 (docs/evaluation.md).  Finding them is a set-similarity join with prefix filtering: two
sets with Jaccard ≥ t share at least one of the |x| − ⌈t·|x|⌉ + 1 rarest tokens of either (Chaudhuri
et al., 2006; Bayardo et al., 2007) [known], so only the rarest tokens of the held-out side are
indexed and few pairs are ever compared.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from sidar.config import Config, HeldOutConfig
from sidar.data.duck import Duck

THRESHOLD = 0.8


def tokens(column: str) -> str:
    """SQL of a query's token set: NFC, lower case, runs of letters and digits; a Han character is
    its own token.
    """
    spaced = f"regexp_replace(lower(nfc_normalize({column})), '(\\p{{Han}})', ' \\1 ', 'g')"
    return f"list_distinct(regexp_extract_all({spaced}, '[\\p{{L}}\\p{{M}}\\p{{N}}]+'))"


def normalised(column: str) -> str:
    """SQL of a query's tokens in order, joined by spaces: equal strings are the same query."""
    spaced = f"regexp_replace(lower(nfc_normalize({column})), '(\\p{{Han}})', ' \\1 ', 'g')"
    return f"array_to_string(regexp_extract_all({spaced}, '[\\p{{L}}\\p{{M}}\\p{{N}}]+'), ' ')"


def held_out_files(cfg: Config) -> list[HeldOutConfig]:
    """Return ``data.held_out``, or where it is null the query files of ``evaluate.sets`` as they
    stand now.

    Real sets are matched near; simulated ones exactly, because their templates overlap by design.
    """
    if cfg.data.held_out is not None:
        return cfg.data.held_out
    return [
        HeldOutConfig(queries=each.queries, match=rule_of(each.origin), columns=each.columns)
        for each in cfg.evaluate.sets
    ]


def rule_of(origin: str) -> Literal["near", "exact"]:
    """Return how queries of a set of this origin are held out."""
    return "near" if origin == "real" else "exact"


def hold_out(duck: Duck, log: str, near: list[str], exact: list[str]) -> int:
    """Create the table ``held_out (query)``: the log's distinct queries that training must not see.

    ``log`` is a SQL relation with a column ``query``; ``near`` queries are matched by Jaccard ≥ .8,
    ``exact`` ones by equal normalised text.  Returns the number of queries.
    """
    _pair_up(duck, log, near, exact)
    duck.run("CREATE OR REPLACE TABLE held_out AS SELECT DISTINCT query FROM alike")
    duck.run("DROP TABLE alike")
    return int(duck.row("SELECT count(*) FROM held_out")[0])


def found_in(duck: Duck, log: str, queries: list[str], match: Literal["near", "exact"]) -> set[str]:
    """Return those of ``queries`` that some query of ``log`` reads like under the
    rule ``match``.
    """
    near, exact = (queries, []) if match == "near" else ([], queries)
    _pair_up(duck, log, near, exact)
    held = {query for (query,) in duck.rows("SELECT DISTINCT held FROM alike")}
    duck.run("DROP TABLE alike")
    return held


def _pair_up(duck: Duck, log: str, near: list[str], exact: list[str]) -> None:
    """Create the table ``alike (query, held)``: distinct queries of ``log`` beside the held-out
    ones they read like.
    """
    duck.register("held_near", pa.table({"held": pa.array(near, pa.string())}))
    duck.register("held_exact", pa.table({"held": pa.array(exact, pa.string())}))
    if not near and not exact:
        duck.run(
            "CREATE OR REPLACE TABLE alike AS SELECT ''::VARCHAR AS query, ''::VARCHAR AS held "
            "WHERE false"
        )
        return
    duck.run(
        f"CREATE OR REPLACE TABLE logged AS SELECT DISTINCT query FROM {log} WHERE query <> ''"
    )
    duck.run(
        f"""CREATE OR REPLACE TABLE held_tokens AS SELECT row_number() OVER () AS held_id, held, bag
            FROM (SELECT DISTINCT held, {tokens("held")} AS bag FROM held_near)
            WHERE len(bag) > 0"""
    )
    by_tokens = f"""
        WITH said AS (SELECT query, {tokens("query")} AS bag FROM logged),
        frequency AS (SELECT token, count(*) AS n FROM (SELECT unnest(bag) AS token
        FROM said) GROUP BY token),
        listed AS (  -- tokens of held-out queries, rarest in the log first
            SELECT held_id, t.token, row_number() OVER (PARTITION BY held_id ORDER BY coalesce(n,
            0), t.token) AS rank,
                count(*) OVER (PARTITION BY held_id) AS size
            FROM (SELECT held_id, unnest(bag) AS token FROM held_tokens) t LEFT JOIN frequency
            USING (token)),
        prefix AS (SELECT held_id, token FROM listed
        WHERE rank <= size - ceil({THRESHOLD} * size - 1e-9) + 1),
        pairs AS (
            SELECT DISTINCT query, held_id
            FROM (SELECT query, unnest(bag) AS token FROM said) JOIN prefix USING (token)),
        compared AS (
            SELECT query, held, len(list_intersect(said.bag, h.bag)) AS common,
            len(said.bag) + len(h.bag) AS both_sizes
            FROM pairs JOIN said USING (query) JOIN held_tokens h USING (held_id))
        SELECT query, held FROM compared
        WHERE common >= {THRESHOLD} * (both_sizes - common) - 1e-9"""
    by_text = f"""
        SELECT query, held FROM (SELECT query, {normalised("query")} AS text FROM logged)
        JOIN (SELECT DISTINCT held, {normalised("held")} AS text FROM held_exact) USING (text)"""
    # each reads all of the log
    parts = ([by_tokens] if near else []) + ([by_text] if exact else [])
    duck.run(f"CREATE OR REPLACE TABLE alike AS {' UNION '.join(parts)}")
    duck.run("DROP TABLE logged")
    duck.run("DROP TABLE held_tokens")
