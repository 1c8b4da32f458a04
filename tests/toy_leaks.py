"""Evaluation sets of queries that the toy's shoppers do type: where nobody types them, a leak test
cannot fail.
"""

import re

from sidar.data import stage, toy

REAL, SIMULATED = "typed_real", "typed_simulated"


def write_typed_sets(folder):
    """Write two sets into ``folder`` and return their config: every fourth query of the log, a real
    set's with its words the other way round (found by its token set), a simulated one's in capitals
    (found by its normalised text)."""
    typed, sets = list(toy.log_queries().items()), []
    for name, origin, some in ((REAL, "real", typed[1::4]), (SIMULATED, "simulated", typed[3::4])):
        queries, qrels = ["query_id\tquery"], ["query_id\titem_id\tgrade"]
        for number, (query, shelf) in enumerate(some):
            said = " ".join(reversed(query.split())) if origin == "real" else f"  {query.upper()}"
            queries.append(f"{name}{number}\t{said}")
            qrels.append(f"{name}{number}\t{toy.catalogue().item_ids[8 * shelf]}\t1")
        paths = {kind: folder / f"{name}.{kind}.tsv" for kind in ("queries", "qrels")}
        for kind, lines in (("queries", queries), ("qrels", qrels)):
            paths[kind].write_text("\n".join(lines) + "\n")
        sets.append(
            {"name": name, "origin": origin, **{kind: str(path) for kind, path in paths.items()}}
        )
    return sets


def words(text):
    """The words of a query, whatever their case and order."""
    return frozenset(re.findall(r"\w+", text.casefold()))


def leaked(queries, data):
    """Those of ``queries`` that ask what a query of the two sets asks."""
    own = {
        words(p.query)
        for each in data.eval_sets()
        if each.name in (REAL, SIMULATED)
        for p in each.prompts
    }
    assert len(own) > 8
    return {query for query in queries if words(query) in own}


def switch_off(monkeypatch):
    """Build data without holding anything out."""
    hold_out = stage.hold_out
    monkeypatch.setattr(
        stage, "hold_out", lambda duck, log, real, exact: hold_out(duck, log, [], [])
    )
