"""Which tokenizer is best for this catalogue, in one sentence, or why the tests cannot tell.

The rule was fixed before any run. The endpoint is item-level nDCG@10. On each set the method with
the highest mean leads, and every method that it does not beat significantly (paired, clustered by
query, Holm) stands with it. A method that alone leads or stands with the leader on every set is the
best. The leader is picked by the data that it is then tested on, which errs towards telling apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from sidar.compare.methods import METHODS
from sidar.compare.paired import CONTROLS, PRIMARY, SECOND, Clusters, Pair, Sampling, compare_family
from sidar.compare.results import Estimate, Leaders, MethodResult, PairedResult, Results, Standing
from sidar.evaluate.perquery import PerQuery

QUESTION = "Does the leader beat the others?"
NAMES = {PRIMARY: "nDCG@10", SECOND: "R@100"}
Figures = Mapping[str, float]
Key = TypeVar("Key", bound=Hashable)

#: Figures of the IDs that may go along with a difference: their words, whether more is better.
REASONS = {
    "quantised": ("recall@100 of the nearest SIDs by vector alone", True),
    "purity": ("category purity under the first two codes", True),
    "collision_rate": ("share of items that share their SID", False),
    "invalid": ("probability on what is no product", False),
}


def find_leaders(
    values: PerQuery, clusters: Clusters, names: Sequence[str], sampling: Sampling
) -> Leaders:
    """Return who leads each set, and which of ``names`` stand with the leader everywhere."""
    sets: dict[str, Standing] = {}
    tests: list[PairedResult] = []
    for set_name in values.sets():
        known = {name: values.get(set_name, name, PRIMARY) for name in names}
        means = {name: float(own[1].mean()) for name, own in known.items() if own}
        if not means:
            continue
        leader = max(means, key=lambda name: means[name])
        pairs = [Pair(leader, name, PRIMARY) for name in means if name != leader]
        against = compare_family(values, clusters, set_name, QUESTION, pairs, sampling)
        tests += against
        beaten = {test.b for test in against if test.verdict == "holds"}
        together = [name for name in means if name not in beaten]
        detectable = [test.detectable or 0.0 for test in against if test.b not in beaten]
        sets[set_name] = Standing(leader, together, means, max(detectable, default=0.0))
    everywhere = [
        name for name in names if sets and all(name in one.together for one in sets.values())
    ]
    if len(names) == 1:
        return Leaders("alone", everywhere, sets, tests)
    if not everywhere:
        return Leaders("depends", everywhere, sets, tests)
    return Leaders("best" if len(everywhere) == 1 else "cannot tell", everywhere, sets, tests)


def sentence(leaders: Leaders, figures: Mapping[str, Figures], reference: str) -> str:
    """Return the answer (Markdown); ``figures`` are the :func:`id_figures` of all contenders."""
    sets, everywhere = leaders.sets, leaders.everywhere
    if leaders.kind == "alone":
        return f"Only {reference} took part, so there is nothing to choose."
    if leaders.kind == "best":
        name = everywhere[0]
        where = " and ".join(f"{one.means[name]:.3f} on {each}" for each, one in sets.items())
        return (
            f"**{name} is best for this catalogue**: no other method stands with the leader on "
            f"every set (item nDCG@10 {where}){_reasons(name, reference, figures)}."
        )
    if leaders.kind == "depends":
        where = "; ".join(f"{listed(one.together)} on {each}" for each, one in sets.items())
        return f"**It depends on the queries**: {where}. No method is among the best on every set."
    unseen = max(one.detectable for one in sets.values())
    behind = [name for name in figures if name not in everywhere]
    plainest = next((name for name in METHODS if name in everywhere), everywhere[0])
    rest = f"The tests do leave {listed(behind)} behind on some set. " if behind else ""
    return (
        f"**Cannot tell which is best**: {listed(everywhere)} are not told apart on any set (item "
        f"nDCG@10; a difference under {unseen:.3f} would not have been seen). {rest}"
        f"The plainest of those that are not told apart is {plainest}."
    )


def id_figures(method: MethodResult, estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return the figures of a method's IDs that may explain a difference."""
    assert method.quality is not None
    figures = {"collision_rate": method.quality.collision_rate}
    if purity := method.quality.category_purity(2):
        figures["purity"] = purity.purity
    for key, measure in (("quantised", "quantised/recall@100"), ("invalid", "invalid/mass")):
        cell = estimates.get(measure)
        if cell and cell.mean is not None:
            figures[key] = cell.mean
    return figures


def _reasons(name: str, reference: str, figures: Mapping[str, Figures]) -> str:
    """Return the figures that point the same way; they go along, they prove nothing."""
    if name == reference or not {name, reference} <= set(figures):
        return ""
    reasons = []
    for key, (words, more_is_better) in REASONS.items():
        a, b = figures[name].get(key), figures[reference].get(key)
        if a is None or b is None or round(a, 3) == round(b, 3):
            continue
        if (a > b) == more_is_better:
            reasons.append(f"{words} ({a:.3f}, {reference} {b:.3f})")
    if not reasons:
        return ". No figure of its IDs explains it"
    return f". What goes along with it: {', '.join(reasons[:2])}"


def listed(names: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def caveats(results: Results) -> list[str]:
    """Return the warnings to print with the verdict: controls without power, failed methods."""
    controls = filter(None, (_powerless(results, name) for name in results.methods))
    failures = [
        f"**{name} failed** at `{method.failed}` (seed {method.failed_seed}) and is in no table "
        f"and no test: {' '.join(method.error.split())}"
        for name, method in results.methods.items()
        if method.failed
    ]
    return [*controls, *failures]


def _powerless(results: Results, control: str) -> str:
    """Return where ``control`` does not lose; empty where it loses all its tests."""
    tests = [test for test in results.asked(CONTROLS, PRIMARY, SECOND) if test.b == control]
    open_tests = [test for test in tests if test.verdict != "holds"]
    if not open_tests:
        return ""
    method = open_tests[0].a
    sets = _grouped((NAMES[test.measure], test.set) for test in open_tests)
    by_sets = _grouped((tuple(some), measure) for measure, some in sets.items())
    where = " and ".join(
        f"by {listed(measures)} on {listed(some)}" for some, measures in by_sets.items()
    )
    what = "this comparison"
    if method != results.reference:
        what += f" of {method} with its control"
    if lost := len(tests) - len(open_tests):
        where += f" (it loses the other {lost} of {len(tests)} tests)"
        what = f"there {what}"
    return f"**{control}** does not lose to {method} {where}: {what} has no power."


def _grouped(pairs: Iterable[tuple[Key, str]]) -> dict[Key, list[str]]:
    groups: dict[Key, list[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
