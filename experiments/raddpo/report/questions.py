"""What the evidence compares: the contrasts of each family for a measure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from experiments.raddpo.report.cells import Evidence
from experiments.raddpo.report.compare import CONTROL, START
from experiments.raddpo.report.contrast import Contrast, Side, difference
from experiments.raddpo.report.names import row

SYSTEM, BARE = "raddpo", "raddpo-no-rdrw"
ABLATIONS = (
    *("raddpo-no-tlgd", BARE, "raddpo-no-mlsft", "raddpo-no-mlsft-none"),
    *("raddpo-pairwise", "raddpo-paper"),
)
#: RDRW against what costs less, and against the truth that only a simulator has.
CONTROLS = (
    (SYSTEM, "raddpo-constant"),
    (SYSTEM, "raddpo-shuffled"),
    ("raddpo-truth", SYSTEM),
    ("raddpo-truth", BARE),
    ("raddpo-skip-above", BARE),
    ("raddpo-ips", BARE),
    (SYSTEM, "raddpo-skip-above"),
    (SYSTEM, "raddpo-ips"),
)
#: RAD-DPO keeps L_SFT; the baselines do not, unless they are given it.
TWINS = (
    *((f"{system}+sft", system) for system in ("dpo", "simpo", "sdpo")),
    *((SYSTEM, f"{system}+sft") for system in ("dpo", "simpo", "sdpo")),
)
NOISED = (BARE, "raddpo-constant", "raddpo-shuffled")
ITEM_VECTORS = "state=item_vector"
#: Rows of the denoisers at a dose, each less RAD-DPO without RDRW.
AT_A_DOSE = (
    *((SYSTEM, ""), (SYSTEM, ITEM_VECTORS), ("raddpo-constant", ""), ("raddpo-shuffled", "")),
    *(("raddpo-truth", ""), ("raddpo-skip-above", "")),
)
#: The lab's corners as they could be set here, with the sign that it predicts on true utility.
WIN, LOSE = "data=clean", "noise=0.5"
GENERATIVE = (START, CONTROL, SYSTEM)
CHANNELS = ("bm25", "dense", "dense-tuned", "bm25+dense", "bm25+dense-tuned")
BEST_CHANNEL = "bm25+dense-tuned"
FULL_HEAD = "head=full"
BEST_CHECKPOINT = "checkpoint=best"

Asked = dict[str, Contrast]
Row = tuple[str, str]  # system, variant


def named(system: str, variant: str = "") -> str:
    """Return a row's name, with what it varies."""
    return row(system) + (f" ({variant.replace('=', ' ')})" if variant else "")


def differences(pairs: Iterable[tuple[Row, Row]], metric: str, *, across: bool = False) -> Asked:
    return {
        f"{named(*a)} − {named(*b)}": difference(
            a[0], b[0], metric, variant=a[1], b_variant=b[1], across=across
        )
        for a, b in pairs
    }


def change(most: Contrast, least: Contrast, *, across: bool = True) -> Contrast:
    """Return most − least of two differences."""
    plus, minus = (*most.plus, *least.minus), (*most.minus, *least.plus)
    return Contrast(plus, minus, most.set, most.sign, across)


# ---------------------------------------------------------------------- parts of RAD-DPO


def ablations(evidence: Evidence, metric: str) -> Asked:
    return differences((((SYSTEM, ""), (other, "")) for other in ABLATIONS), metric)


def controls(evidence: Evidence, metric: str) -> Asked:
    return differences((((a, ""), (b, "")) for a, b in CONTROLS), metric)


def twins(evidence: Evidence, metric: str) -> Asked:
    return differences((((a, ""), (b, "")) for a, b in TWINS), metric)


def rate_of_the_method(evidence: Evidence) -> str:
    """Return the variant of SFT continued at RAD-DPO's rate, run or planned; "" without."""
    return next(iter(evidence.variants("lr_new", CONTROL)), "")


def ladder(evidence: Evidence, metric: str) -> Asked:
    """One part at a time; the last is the whole against SFT continued at the same rate."""
    rungs = [(START, ""), (CONTROL, ""), ("raddpo-contrast", ""), (BARE, ""), (SYSTEM, "")]
    rate = rate_of_the_method(evidence)
    if rate:
        rungs.insert(2, (CONTROL, rate))
    steps = [(b, a) for a, b in pairwise(rungs)]
    if rate:
        steps.append(((SYSTEM, ""), (CONTROL, rate)))
    return differences(steps, metric)


def rows_at_equal_rates(evidence: Evidence, metric: str) -> Asked:
    """RAD-DPO less SFT continued at its rate: on the base's rows, on the most, and the change."""
    rate = rate_of_the_method(evidence)
    planned = [variant for system, variant in evidence.plan if system == CONTROL]
    planned += [cell.variant for cell in evidence.cells.values() if cell.system == CONTROL]
    longer = [v for v in planned if v.startswith("lists=") and v.endswith(f",{rate}")]
    if not rate or not longer:
        return {}
    lists = longer[0].partition(",")[0]
    least = difference(SYSTEM, CONTROL, metric, b_variant=rate, across=True)
    most = difference(SYSTEM, CONTROL, metric, variant=lists, b_variant=longer[0], across=True)
    base = evidence.base_value("lists", SYSTEM) or "base"
    return {
        f"{base} rows": least,
        f"{lists.partition('=')[2]} rows": most,
        "the change": change(most, least),
    }


def order_of_harm(evidence: Evidence, metric: str) -> Asked:
    """Neighbours in the paper's order of hallucination: each less the one before it."""
    names = evidence.registration["hallucination_order"]
    return differences((((b, ""), (a, "")) for a, b in pairwise(names)), metric)


def full_head(evidence: Evidence, metric: str) -> Asked:
    pairs = ((SYSTEM, START), ("dpo", START), ("dpo", SYSTEM))
    return differences((((a, FULL_HEAD), (b, FULL_HEAD)) for a, b in pairs), metric)


# ---------------------------------------------------------------------- noise and dose


def noise(evidence: Evidence, metric: str) -> Asked:
    """RDRW with its controls at every noise; planned ones are in the family, run or not."""
    return {
        name: contrast
        for variant in ("", *evidence.variants("noise", SYSTEM))
        for name, contrast in _noise_pairs(metric, variant).items()
    }


def _noise_pairs(metric: str, variant: str) -> Asked:
    pairs = [((SYSTEM, variant), (other, variant)) for other in NOISED]
    vectors = ",".join(filter(None, (variant, ITEM_VECTORS)))
    return differences([*pairs, ((SYSTEM, vectors), (BARE, variant))], metric)


def noise_slopes(evidence: Evidence, metric: str) -> Asked:
    """Each difference at the most noise less the same without."""
    variants = evidence.variants("noise", SYSTEM)
    if not variants:
        return {}
    calm, noisy = (_noise_pairs(metric, variant) for variant in ("", variants[-1]))
    return {
        name: change(most, least, across=False)
        for (name, least), most in zip(calm.items(), noisy.values(), strict=True)
    }


def longer_setting(evidence: Evidence, group: str) -> str:
    """Return the variant of the lab's longer and faster alignment in ``group``; "" without."""
    variants = {cell.variant for cell in evidence.cells.values() if group in cell.groups}
    found = {re.sub(r"^(data=clean|noise=0\.5|state=item_vector),", "", v) for v in variants}
    return min((v for v in found if v.startswith("lists=")), default="")


def dose(evidence: Evidence, metric: str) -> Asked:
    """The denoisers where alignment is long and fast enough for lists to matter."""
    setting = longer_setting(evidence, "dose")
    if not setting:
        return {}
    noisy = f"{LOSE},{setting}"
    pairs = [((system, setting), (CONTROL, setting)) for system in (SYSTEM, BARE)]
    for system, state in AT_A_DOSE:
        variant = ",".join(filter(None, (state, setting)))
        pairs.append(((system, variant), (BARE, setting)))
    pairs += [((SYSTEM, noisy), (other, noisy)) for other in NOISED]
    return differences(pairs, metric)


def corners(evidence: Evidence, metric: str) -> Asked:
    """The lab's two corners against SFT continued of the same length, and their order."""
    setting = longer_setting(evidence, "lab")
    if not setting:
        return {}
    win, lose = f"{WIN},{setting}", f"{LOSE},{setting}"

    def less(a: str, system: str, b: str, sign: str = "+") -> Contrast:
        return difference(SYSTEM, system, metric, variant=a, b_variant=b, sign=sign, across=True)

    return {
        "no relevant negative: better": less(win, CONTROL, setting),
        "half of them relevant: worse": less(lose, CONTROL, setting, "-"),
        "the first above the second": less(win, SYSTEM, lose),
    }


def beside_the_corners(evidence: Evidence, metric: str) -> Asked:
    """The corners and the longer alignment beside the base setting: shown without verdicts."""
    setting = longer_setting(evidence, "lab")
    if not setting:
        return {}
    corners = [(SYSTEM, f"{WIN},{setting}"), (SYSTEM, f"{LOSE},{setting}"), (CONTROL, setting)]
    pairs = [(corner, base) for corner in corners for base in ((CONTROL, ""), (START, ""))]
    return differences([*pairs, ((SYSTEM, setting), (SYSTEM, ""))], metric, across=True)


# ---------------------------------------------------------------------- unseen queries


def alone(evidence: Evidence, metric: str) -> Asked:
    pairs = [
        (system, channel)
        for system in GENERATIVE
        for channel in CHANNELS
        if channel != "bm25+dense" or system == SYSTEM
    ]
    return differences((((a, ""), (b, "")) for a, b in pairs), metric)


def fused(evidence: Evidence, metric: str) -> Asked:
    """The fusion with a model less the one without it, and RAD-DPO's less the others'."""
    fused = f"fused.{metric}"
    asked = {
        f"{row(s)} fused − {row(BEST_CHANNEL)}": difference(s, BEST_CHANNEL, fused, b_metric=metric)
        for s in GENERATIVE
    }
    for other in (START, CONTROL):
        name = f"{row(SYSTEM)} fused − {row(other)} fused"
        asked[name] = Contrast((Side(SYSTEM, fused),), (Side(other, fused),))
    return asked
