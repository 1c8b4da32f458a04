"""Which tokenizer is best for this catalogue, in one sentence, or why the tests cannot tell.

The rule, fixed before any run: the endpoint is item-level nDCG@10. On each test set the method with the highest mean
leads, and every method that it does not beat significantly (paired, clustered by query, Holm) stands with it. One
method that leads or stands with the leader on every set, alone, is the best. Several: the tests cannot tell them apart.
None: it depends on the queries. The leader is picked by the data that it is then tested on, which errs towards telling
apart too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sidar.evaluate.perquery import PerQuery
from sidar.pipeline.bakeoff.claims import PRIMARY, Pair, ask

QUESTION = "Does the leader beat the others?"
#: Figures of the IDs that may go along with a difference: (figure, its words, whether more is better).
REASONS = (
    ("quantised", "recall@100 of the nearest SIDs by vector alone", True),
    ("purity", "category purity under the first two codes", True),
    ("collision_rate", "share of items that share their SID", False),
    ("invalid", "probability on what is no product", False),
)


def leaders(
    values: PerQuery,
    clusters: Mapping[str, Mapping[str, str]],
    names: Sequence[str],
    *,
    seeds: int,
    seed: int,
    samples: int,
) -> dict[str, Any]:
    """Per set the leader, those that stand with it, and the tests; then ``best``, ``with`` and ``kind``.

    ``kind``: ``best`` (one method), ``cannot tell`` (several), ``depends`` (none on every set), ``alone`` (one).
    """
    sets: dict[str, Any] = {}
    tests: list[dict[str, Any]] = []
    for each in values.sets():
        means = {name: float(got[1].mean()) for name in names if (got := values.get(each, name, PRIMARY))}
        if not means:
            continue
        leader = max(means, key=lambda name: means[name])
        family = [Pair(leader, name, PRIMARY) for name in means if name != leader]
        found = [
            row
            for row in ask(values, clusters, QUESTION, [family], seeds=seeds, seed=seed, samples=samples)
            if row["set"] == each
        ]
        tests += found
        beaten = {row["b"] for row in found if row["verdict"] == "holds"}
        widest = max((row["detectable"] for row in found if row["b"] not in beaten), default=0.0)
        together = [name for name in means if name not in beaten]
        sets[each] = {"leader": leader, "with": together, "means": means, "detectable": widest}
    everywhere = [name for name in names if sets and all(name in one["with"] for one in sets.values())]
    kind = "alone" if len(names) == 1 else {0: "depends", 1: "best"}.get(len(everywhere), "cannot tell")
    return {"kind": kind, "everywhere": everywhere, "sets": sets, "tests": tests}


def sentence(
    found: Mapping[str, Any], figures: Mapping[str, Mapping[str, float]], plainest: Sequence[str], reference: str
) -> str:
    """The answer; ``figures`` {method: {quantised, purity, …}}, ``plainest``: all methods, the plainest first."""
    sets, everywhere = found["sets"], found["everywhere"]
    if found["kind"] == "alone":
        return f"Only {reference} took part, so there is nothing to choose."
    if found["kind"] == "best":
        name = everywhere[0]
        where = " and ".join(f"{one['means'][name]:.3f} on {each}" for each, one in sets.items())
        return (
            f"**{name} is best for this catalogue**: no other method stands with the leader on every set (item nDCG@10 "
            f"{where}){_why(name, reference, figures)}."
        )
    if found["kind"] == "depends":
        parts = [f"{listed(one['with'])} on {each}" for each, one in sets.items()]
        return f"**It depends on the queries**: {'; '.join(parts)}. No method is among the best on every set."
    blind = max(one["detectable"] for one in sets.values())
    out = [name for name in figures if name not in everywhere]
    plain = next((name for name in plainest if name in everywhere), everywhere[0])
    return (
        f"**Cannot tell which is best**: {listed(everywhere)} are not told apart on any set (item nDCG@10; a "
        f"difference under {blind:.3f} would not have been seen). "
        + (f"The tests do leave {listed(out)} behind on some set. " if out else "")
        + f"The plainest of those that are not told apart is {plain}."
    )


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _why(name: str, other: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of the IDs that point the same way, compared with ``other``; they go along, they prove nothing."""
    if name == other or name not in figures or other not in figures:
        return ""
    said = []
    for key, words, more in REASONS:
        a, b = figures[name].get(key), figures[other].get(key)
        if a is not None and b is not None and round(a, 3) != round(b, 3) and (a > b) == more:
            said.append(f"{words} ({a:.3f}, {other} {b:.3f})")
    return f". What goes along with it: {', '.join(said[:2])}" if said else ". No figure of its IDs explains it"
