"""Why the primary comparison came out as it did, and the setting in which the prefix lab says it
must come out.
"""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import CONTROL, START, against, compare, difference, room
from benchmarks.evidence.report.document import Block, Entry, Heading, Section, Table, Text
from benchmarks.evidence.report.lab import auc_against_lab, corners, longest, prediction
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.parts import at_equal_rates
from benchmarks.evidence.report.show import (
    comparisons,
    direction,
    effect,
    of_seeds,
    plain_number,
    spread,
)

#: A contrast whose gradient has this cosine with SFT's, or more, is said to point where SFT points.
REPEATS = 0.5


def why(evidence: Evidence) -> Section:
    """Headroom, gradients, saturation and AUC beside each other; then the corners of the lab."""
    system = evidence.registration["primary"]["system"]
    metric = PRIMARY["click"][0]
    result = against(evidence, CONTROL, metric).get(system)
    word = result.word if result else "not run"
    blocks: list[Block] = [
        Text(
            f"{row(system)} − {row(CONTROL)} on {measure(metric)} of next-day clicks: **{word}**. "
            "What it had to work with, and what the lab, where power is free, says of such a "
            "setting."
        )
    ]
    rows, said = _causes(evidence, system, metric)
    blocks.append(Table(["", "value", "what it means"], rows, (2,)) if rows else Text("Not run."))
    blocks += [Text(text) for text in said]
    blocks += [Heading("What the lab predicts for such lists"), *prediction(evidence, system)]
    blocks += [Heading("Where it must win, and where it must lose"), *corners(evidence, system)]
    return Section("why", "Why", blocks, "simulated")


def _causes(evidence: Evidence, system: str, metric: str) -> tuple[list[list[Entry]], list[str]]:
    rows: list[list[Entry]] = []
    said: list[str] = []
    own = against(evidence, CONTROL, metric).get(system)
    if own and own.test:
        meaning = "at 80 % power, corrected for the methods of the main table"
        rows.append(["effect that could have been seen", plain_number(own.detectable, 4), meaning])
    equal = {
        m: at_equal_rates(evidence, m)
        for m in (metric, PRIMARY["utility"][0], PRIMARY["utility"][1])
    }
    for measured, found in equal.items():
        if found and found.test:
            name = (
                f"{row(system)} less SFT continued at RAD-DPO's own learning rate: "
                f"{measure(measured)}"
            )
            target = "clicks" if measured == metric else "true utility"
            rows.append(
                [
                    name,
                    effect(found),
                    f"{target}: **{direction(found).text}**, corrected over the ladder",
                ]
            )
    above = room(evidence, metric)
    reached = (above.hindsight, above.utility, above.reachable)
    meanings = (
        ("oracle of the clicks less SFT", "room in hindsight"),
        (
            "oracle of the true utility less SFT",
            "what knowing the shopper is worth on next-day clicks",
        ),
        (
            "SFT's own beam in the order of the true utility, less SFT",
            "the same inside what alignment can reorder",
        ),
    )
    for (name, meaning), found in zip(meanings, reached, strict=True):
        if found.test:
            rows.append([name, effect(found), meaning])
    if (test := reached[2].test) and test.high <= 0:
        said.append(
            "**Next-day clicks do not reward the truth.** Ordering SFT's own beam by the true "
            "utility, which no method can know better, lowers this measure: clicks go to what the "
            "logger shows on top. A method that learns what shoppers want is invisible here or "
            "loses; true utility and the randomised bucket are where to look."
        )
    elif test and test.low > 0:
        said.append(
            "Ordering SFT's own beam by the true utility raises this measure: clicks do reward the "
            "truth here, the target is not blind to it."
        )
    runs, start = evidence.runs(system), evidence.runs(START)
    for name, figures, meaning in (
        (
            "negatives that are truly relevant",
            of_seeds(start, "pairs/pseudo"),
            "they pull against the truth (lab, D)",
        ),
        (
            "pairs that SFT orders rightly, true negatives",
            of_seeds(start, "pairs/accuracy_true"),
            "little left to learn",
        ),
        (
            "… pseudo-negatives",
            of_seeds(start, "pairs/accuracy_pseudo"),
            "raising this one does harm",
        ),
        (
            "gradient of the contrast / of SFT",
            of_seeds(runs, "gradient/ratio"),
            "under .01: inactive",
        ),
        (
            "cosine of the two",
            of_seeds(runs, "gradient/cosine"),
            "near 1: the contrast repeats what SFT does",
        ),
        ("saturated lists", of_seeds(runs, "contrast/push_saturated"), "no push left"),
        (
            "AUC of RDRW's state (eos_out), pooled",
            of_seeds(runs, "rdrw/eos_out/auc"),
            ".5: no information",
        ),
        (
            "… inside a list",
            of_seeds(runs, "rdrw/eos_out/auc_within"),
            "what the contrast of one list sees",
        ),
        ("AUC of the item vectors", of_seeds(runs, "rdrw/item_vector/auc"), "costs no training"),
        (
            "AUC of the model's own likelihood",
            of_seeds(runs, "auc/reward"),
            "what the model knows already",
        ),
    ):
        if figures:
            rows.append([name, spread(figures), meaning])
    if (own_rates := equal[metric]) and own_rates.test:
        word = direction(own_rates).text
        said.append(
            f"**At equal learning rates** {row(system)} is {effect(own_rates).text} "
            f"{effect(own_rates).short} from SFT "
            f"continued on this measure: "
            + (
                f"**{word}**, so it is the contrast that moves it, not the rate."
                if word in ("higher", "lower")
                else f"{word}."
            )
        )
    cosine = of_seeds(runs, "gradient/cosine")
    if cosine and min(cosine) >= REPEATS:
        mean = plain_number(sum(cosine) / len(cosine), 2)
        said.append(
            "The contrast points much where SFT points: their gradients on the same lists have a "
            f"cosine of {mean}. What it adds is the rest, the push away from what was shown and "
            "not clicked."
        )
    rows += _plateau(evidence, said)
    if weak := auc_against_lab(evidence, runs, start):
        said.append(weak)
    return rows, said


def _plateau(evidence: Evidence, said: list[str]) -> list[list[Entry]]:
    """Whether SFT had learnt what its lists hold: its validation half way and at the end, and what
    more lists give.
    """
    rows: list[list[Entry]] = []
    valid = [list(cell.train.get("valid") or []) for cell in evidence.runs(START).values()]
    valid = [v for v in valid if len(v) > 1 and all("recall@8" in each for each in v)]
    if valid:
        last = [float(v[-1]["recall@8"]) - float(v[-2]["recall@8"]) for v in valid]
        rows.append(
            [
                "SFT's own gain of SID R@8 (validation) since its last check",
                spread(last, sign=True),
                (
                    "above 0: SFT was stopped before its plateau; the lab's best corner starts "
                    "from one at its plateau"
                ),
            ]
        )
    if longer := longest(evidence):
        for metric in (PRIMARY["utility"][0], PRIMARY["click"][0]):
            contrast = difference(CONTROL, START, metric, variant=longer, b_variant="", across=True)
            (found,) = compare(evidence, [contrast])
            if found.test:
                name = (
                    f"SFT continued, longer and faster, less SFT: {measure(metric)} "
                    f"({metric.partition('.')[0]})"
                )
                rows.append(
                    [
                        name,
                        effect(found),
                        f"**{direction(found).text}**: what more SFT on lists gives",
                    ]
                )
                if metric == PRIMARY["utility"][0] and direction(found).text == "higher":
                    said.append(
                        "**SFT was not at its plateau**: more of the same, longer and faster, "
                        f"still raises the true utility ({measure(metric)} {effect(found).text}). "
                        "The steps of SFT were registered for two cores; who has more should "
                        "spend them on SFT first, and then compare objectives."
                    )
    return rows


def checkpoints(evidence: Evidence) -> list[Block]:
    """Best against final checkpoint on day 7, by row, and on day 8 for the rows of the headline."""
    rows: list[list[Entry]] = []
    for system in [CONTROL, *(s for s in evidence.systems() if s not in (START, CONTROL))]:
        valid = [list(cell.train.get("valid") or []) for cell in evidence.runs(system).values()]
        valid = [v for v in valid if len(v) > 1 and all("recall@8" in each for each in v)]
        if not valid:
            continue
        best = [max(float(each["recall@8"]) for each in v[1:]) for v in valid]
        final = [float(v[-1]["recall@8"]) for v in valid]
        same = sum(b == f for b, f in zip(best, final, strict=True))
        begun = [float(v[0]["recall@8"]) for v in valid]
        rows.append(
            [row(system), spread(begun), spread(best), spread(final), f"{same} of {len(valid)}"]
        )
    if not rows:
        return []
    head = [
        "SID R@8 on validation lists",
        "SFT",
        "best checkpoint",
        "final checkpoint",
        "final is best",
    ]
    note = (
        "Tables of day 8 score the final checkpoint; below is what the best one of day 7 does "
        "there."
    )
    return [
        Heading("Best and final checkpoint"),
        Table(head, rows, note=note),
        *_best_on_day_8(evidence),
    ]


def _best_on_day_8(evidence: Evidence) -> list[Block]:
    """Day 7's best checkpoint on day 8: against the final one, and RAD-DPO's against
    SFT-continued's.
    """
    system = evidence.registration["primary"]["system"]
    best = "checkpoint=best"
    asked = {
        f"{row(system)} − {row(CONTROL)}, both at their best": (system, CONTROL, best),
        f"{row(system)}, best − final": (system, system, ""),
        f"{row(CONTROL)}, best − final": (CONTROL, CONTROL, ""),
    }
    blocks: list[Block] = []
    for metric in PRIMARY["click"]:
        contrasts = [
            difference(a, b, metric, variant=best, b_variant=b_at) for a, b, b_at in asked.values()
        ]
        results = zip(asked, compare(evidence, contrasts), strict=True)
        blocks.append(comparisons(list(results), first=f"{measure(metric)}, day-8 clicks"))
    return blocks
