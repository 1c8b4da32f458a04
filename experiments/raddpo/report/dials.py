"""What turning a dial does: negatives, β, rows, size, prefix sharing, state, shipped setting."""

from __future__ import annotations

from collections.abc import Callable

from experiments.raddpo.report.cells import Evidence, sort_key, split_name
from experiments.raddpo.report.compare import CONTROL, START
from experiments.raddpo.report.contrast import difference
from experiments.raddpo.report.names import row
from experiments.raddpo.report.questions import (
    BEST_CHECKPOINT,
    SYSTEM,
    Asked,
    Row,
    change,
    differences,
)

#: The dials: rows that turn it. `gains`: another model or other SIDs, so that only gains over SFT
#: continued can be compared from one value to another.
AXES: dict[str, tuple[str, ...]] = {
    "n": (SYSTEM, "raddpo-paper", "simpo", "sdpo"),
    "beta": (SYSTEM, "raddpo-paper"),
    "lists": (SYSTEM, "dpo", CONTROL),
    "size": (SYSTEM, "dpo", CONTROL),
    "sids": (SYSTEM, "raddpo-no-tlgd", CONTROL),
    "state": (SYSTEM,),
}
GAINS = ("lists", "size", "sids")


def places(evidence: Evidence, axis: str, system: str) -> list[Row]:
    """Return the rows of ``system`` along ``axis``, run or planned, in the order of its values.

    The base setting is among them as the variant "", unless a row says the same value.
    """
    variants = evidence.variants(axis, system)
    base = evidence.base_value(axis, system) or ("eos_out" if axis == "state" else "")
    base = base.replace("/", "-")
    same = {_number(variant.partition("=")[2]) for variant in variants}
    if variants and base and _number(base) not in same:
        variants = [*variants, ""]
    order = _order(evidence, axis, base)
    return [(system, variant) for variant in sorted(variants, key=order)]


def _number(value: str) -> str:
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _order(evidence: Evidence, axis: str, base: str) -> Callable[[str], tuple[float, str]]:
    """What the values of an axis are sorted by: their number; for SIDs the measured sharing."""
    shares = {v: shared_codes(evidence, v) for v in ("", *evidence.variants("sids", START))}

    def key(variant: str) -> tuple[float, str]:
        if axis == "sids" and shares.get(variant) is not None:
            return float(shares[variant] or 0.0), variant
        return sort_key(variant or f"{axis}={base}")

    return key


def shared_codes(evidence: Evidence, variant: str) -> float | None:
    """Return the mean share of pairs with one first code, where SFT models were probed."""
    values = [
        float(cell.mechanism["pairs/shared1"])
        for cell in evidence.runs(START, variant).values()
        if "pairs/shared1" in cell.mechanism
    ]
    return sum(values) / len(values) if values else None


def turned(axis: str) -> Callable[[Evidence, str], Asked]:
    """Return the family of what turning a dial does: each value less the base, the last less the
    first. With `gains` it is the change of the gain over SFT continued at each.
    """

    def asked(evidence: Evidence, metric: str) -> Asked:
        found: Asked = {}
        for system in AXES[axis]:
            rows = places(evidence, axis, system)
            planned = [r for r in rows if evidence.runs(*r) or r in evidence.plan]
            if len(planned) < 2 or system == CONTROL:
                continue
            base = next((r for r in planned if not r[1]), None)
            pairs = []
            if base is not None and axis not in GAINS:
                pairs = [(r, base) for r in planned if r[1]]
            if axis != "state":
                pairs.append((planned[-1], planned[0]))
            for a, b in pairs:
                name = f"{row(system)}: {_value(evidence, axis, a)} − {_value(evidence, axis, b)}"
                if axis in GAINS:
                    gains = (difference(system, CONTROL, metric, variant=v) for _, v in (a, b))
                    found[name] = change(*gains)
                else:
                    found[name] = difference(
                        system, system, metric, variant=a[1], b_variant=b[1], across=True
                    )
        return found

    return asked


def _value(evidence: Evidence, axis: str, place: Row) -> str:
    base = evidence.base_value(axis, place[0]) or "base"
    return (place[1].partition("=")[2] or base).replace("/", "-")


def over_controls(axis: str, control: str) -> Callable[[Evidence, str], Asked]:
    """Return the family of every varied row of a dial less a control: SFT is the very checkpoint
    that a row started from, SFT continued has the same setting where such a cell is planned.
    """

    def asked(evidence: Evidence, metric: str) -> Asked:
        pairs = []
        for system in AXES[axis]:
            for _, variant in places(evidence, axis, system):
                if not variant or system == control:
                    continue
                other = (control, _variant_of(evidence, control, (system, variant)))
                pairs.append(((system, variant), other))
        return differences(pairs, metric)

    return asked


def _variant_of(evidence: Evidence, control: str, place: Row) -> str:
    if control == START:
        for cell in evidence.runs(*place).values():
            if cell.facts.get("parent"):
                return split_name(cell.facts["parent"])[1]
        return ""
    known = bool(evidence.runs(control, place[1])) or (control, place[1]) in evidence.plan
    return place[1] if known else ""


def sizes(evidence: Evidence, metric: str) -> Asked:
    """RAD-DPO − SFT at every size of the model, the base among them."""
    variants = [variant for _, variant in places(evidence, "size", SYSTEM)] or [""]
    return differences((((SYSTEM, v), (START, v)) for v in variants), metric)


def shrinks(evidence: Evidence, metric: str) -> Asked:
    """RAD-DPO's gain over SFT on the largest model that was run, less that on the smallest."""
    variants = [variant for _, variant in places(evidence, "size", SYSTEM) if variant]
    run = [v for v in variants if evidence.runs(SYSTEM, v) and evidence.runs(START, v)]
    if len(run) < 2:
        return {}
    large, small = (
        difference(SYSTEM, START, metric, variant=v, sign="-") for v in (run[-1], run[0])
    )
    sizes = " against ".join(v.partition("=")[2] for v in (run[-1], run[0]))
    return {f"the gain over SFT is smaller on a larger model ({sizes})": change(large, small)}


def sharing(evidence: Evidence, metric: str) -> Asked:
    """What TLGD is worth at each codebook, and there less at the base's."""
    without = "raddpo-no-tlgd"
    variants = [variant for _, variant in places(evidence, "sids", SYSTEM) if variant]
    asked = differences((((SYSTEM, v), (without, v)) for v in variants), metric)
    at_base = difference(SYSTEM, without, metric)
    changes = {f"{name}, less at the base": change(c, at_base) for name, c in asked.items()}
    return asked | changes


def checkpoints(evidence: Evidence, metric: str) -> Asked:
    best = BEST_CHECKPOINT
    pairs = [((SYSTEM, best), (CONTROL, best))]
    pairs += [((system, best), (system, "")) for system in (SYSTEM, CONTROL)]
    return differences(pairs, metric)


def shipped_variants(evidence: Evidence) -> dict[str, str]:
    """Return {system: variant} of the shipped setting; empty where none is planned or run."""
    names = [p.name for p in evidence.planned] + list(evidence.cells)
    rows = map(split_name, names)
    return {system: variant for system, variant in rows if variant.startswith("bed=shipped")}


def shipped(evidence: Evidence, metric: str) -> Asked:
    """RAD-DPO as the defaults have it, less SFT continued and SFT of the same bed."""
    found = shipped_variants(evidence)
    if SYSTEM not in found:
        return {}
    pairs = [((SYSTEM, found[SYSTEM]), (c, found[c])) for c in (CONTROL, START) if c in found]
    return differences(pairs, metric)
