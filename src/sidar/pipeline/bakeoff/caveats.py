"""With what the answer must be read: controls that do not lose, and methods that failed. From the results alone."""

from __future__ import annotations

from collections.abc import Sequence

from sidar.pipeline.bakeoff.claims import PRIMARY, SECOND
from sidar.pipeline.bakeoff.page_parts import Results, asked_of, measure_name
from sidar.pipeline.bakeoff.verdict import listed


def caveats(results: Results) -> list[str]:
    """One sentence each (Markdown), for the head of the page and the end of the command."""
    said = [sentence for name in results["methods"] if (sentence := _control(results, name))]
    for name, facts in results["methods"].items():
        if "failed" in facts:
            said.append(
                f"**{name} failed** at `{facts['failed']}` (seed {facts['failed_seed']}) and is in no table and no "
                f"test: {' '.join(facts['error'].split())}"
            )
    return said


def absent(results: Results, names: Sequence[str]) -> str:
    """``rqvae took no part and cqsid failed``, of methods that have no figures."""
    methods = results["methods"]
    failed = [name for name in names if "failed" in methods.get(name, {})]
    away = [name for name in names if name not in methods]
    parts = [(away, "took no part"), (failed, "failed")]
    return " and ".join(f"{listed(some)} {word}" for some, word in parts if some)


def untested(results: Results, control: str) -> str:
    """Why a control that was asked for is in no test; "" where it is."""
    methods, tested = results["methods"], {test["b"] for test in asked_of(results, "controls")}
    if control in tested:
        return ""
    both = [control, methods[control]["must_lose_to"]]
    if gone := absent(results, both):
        return gone
    over = [name for name in both if not methods[name]["equal"]]
    return f"{listed(over)} missed the code budget" if over else "no set has values of both"


def _control(results: Results, name: str) -> str:
    """Where the control ``name`` does not lose; "" where it loses every test, is in none, or is no control."""
    tests = [test for test in asked_of(results, "controls", PRIMARY, SECOND) if test["b"] == name]
    open_ = [test for test in tests if test["verdict"] != "holds"]
    if not open_:
        return ""
    method = open_[0]["a"]
    sets: dict[str, list[str]] = {}  # measure -> sets
    for test in open_:
        sets.setdefault(measure_name(test["measure"]), []).append(test["set"])
    measures: dict[tuple[str, ...], list[str]] = {}  # sets -> measures
    for measure, some in sets.items():
        measures.setdefault(tuple(some), []).append(measure)
    where = " and ".join(f"by {listed(words)} on {listed(some)}" for some, words in measures.items())
    rest = len(tests) - len(open_)
    but = f" (it loses the other {rest} of {len(tests)} tests)" if rest else ""
    what = "this comparison" if method == results["reference"] else f"this comparison of {method} with its control"
    return f"**{name}** does not lose to {method} {where}{but}: {'there ' if rest else ''}{what} has no power."
