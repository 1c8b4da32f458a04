"""The questions of the evidence: families of comparisons that are corrected together.

A family is named and gives its contrasts for a measure; :func:`family` tests them. What is planned
and not run belongs to its family too (:func:`~experiments.raddpo.report.contrast.assess`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache

from experiments.raddpo.report import dials, questions
from experiments.raddpo.report.cells import Evidence
from experiments.raddpo.report.compare import CONTROL, START, against, compare
from experiments.raddpo.report.contrast import DAY, WEIGHT_0, Result, difference
from experiments.raddpo.report.questions import SYSTEM, Asked, Row, rate_of_the_method


@cache
def family(evidence: Evidence, name: str, metric: str, set_name: str = DAY) -> dict[str, Result]:
    """Return {comparison: result} of the family ``name``, corrected among each other."""
    asked = FAMILIES[name](evidence, metric)
    contrasts = [replace(contrast, set=set_name) for contrast in asked.values()]
    results = [_without_weight(evidence, result) for result in compare(evidence, contrasts)]
    return dict(zip(asked, results, strict=True))


def pick(results: Iterable[Result], a: Row, b: Row) -> Result:
    """Return the plain difference a − b among ``results``."""
    for result in results:
        plus, minus = result.contrast.plus, result.contrast.minus
        sides = [(side.system, side.variant) for side in (*plus, *minus)]
        if sides == [a, b]:
            return result
    raise KeyError(f"no comparison {a} − {b} in this family")


def at_equal_rates(evidence: Evidence, metric: str) -> Result | None:
    """Return RAD-DPO less SFT continued at its learning rate; None where that is not planned."""
    rate = rate_of_the_method(evidence)
    if not rate:
        return None
    return pick(family(evidence, "ladder", metric).values(), (SYSTEM, ""), (CONTROL, rate))


@cache
def claims(evidence: Evidence, metric: str) -> dict[str, Result]:
    """Return {id: result} of the registered claims.

    Those against SFT and SFT continued are corrected with the methods of the main table, the others
    among themselves.
    """
    found, others = {}, []
    for claim in evidence.registration["claims"]:
        methods = against(evidence, claim["b"], metric) if claim["b"] in (START, CONTROL) else {}
        if claim["a"] in methods:
            result = methods[claim["a"]]
            signed = replace(result.contrast, sign=claim["sign"])
            found[claim["id"]] = replace(result, contrast=signed)
        else:
            others.append(claim)
    contrasts = [difference(c["a"], c["b"], metric, sign=c["sign"]) for c in others]
    results = compare(evidence, contrasts)
    return found | {c["id"]: result for c, result in zip(others, results, strict=True)}


def _without_weight(evidence: Evidence, result: Result) -> Result:
    """A fusion without any difference is one in which the model has no weight, if its cells say
    so.
    """
    contrast = result.contrast
    if not result.same:
        return result
    weights = [
        (cell.facts.get("fusion") or {}).get(contrast.set, {}).get("weights")
        for side in (*contrast.plus, *contrast.minus)
        if side.metric.startswith("fused.")
        for seed, cell in evidence.runs(side.system, side.variant).items()
        if seed in result.seeds
    ]
    weightless = bool(weights) and all(w and w[-1] == 0 for w in weights)
    return replace(result, same=WEIGHT_0) if weightless else result


FAMILIES: dict[str, Callable[[Evidence, str], Asked]] = {
    "ablations": questions.ablations,
    "ladder": questions.ladder,
    "controls": questions.controls,
    "twins": questions.twins,
    "rows at equal rates": questions.rows_at_equal_rates,
    "order of harm": questions.order_of_harm,
    "full head": questions.full_head,
    "noise": questions.noise,
    "noise slopes": questions.noise_slopes,
    "dose": questions.dose,
    "corners": questions.corners,
    "beside the corners": questions.beside_the_corners,
    "sizes": dials.sizes,
    "shrinks": dials.shrinks,
    "sharing": dials.sharing,
    "checkpoints": dials.checkpoints,
    "shipped": dials.shipped,
    "alone": questions.alone,
    "fused": questions.fused,
}
for _name in dials.AXES:
    FAMILIES[_name] = dials.turned(_name)
    FAMILIES[f"{_name} − {START}"] = dials.over_controls(_name, START)
    FAMILIES[f"{_name} − {CONTROL}"] = dials.over_controls(_name, CONTROL)
