"""Why the primary comparison came out as it did, and the setting in which the prefix lab says it must come out."""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import (
    CONTROL,
    START,
    Contrast,
    Side,
    against,
    compare,
    difference,
    levels,
)
from benchmarks.evidence.report.document import Block, Entry, Heading, Section, Table, Text
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.show import comparisons, effect, of_seeds, plain_number, spread

#: A contrast whose gradient has this cosine with SFT's, or more, mostly repeats it.
REPEATS = 0.5
#: The lab's two corners as they could be set here, and the sign that it predicts on the true utility.
WIN, LOSE = "data=clean", "noise=0.5"


def why(evidence: Evidence) -> Section:
    """Headroom, gradients, saturation and AUC beside each other; then the corners of the lab."""
    system = evidence.registration["primary"]["system"]
    metric = PRIMARY["click"][0]
    result = against(evidence, CONTROL, metric).get(system)
    word = result.word if result else "not run"
    blocks: list[Block] = [
        Text(
            f"{row(system)} − {row(CONTROL)} on {measure(metric)} of next-day clicks: **{word}**. What it had to work "
            "with, and what the lab, where power is free, says of such a setting."
        )
    ]
    rows, said = _causes(evidence, system, metric)
    blocks.append(Table(["", "value", "what it means"], rows, (2,)) if rows else Text("Not run."))
    blocks += [Text(text) for text in said]
    blocks += [Heading("Where it must win, and where it must lose"), *_corners(evidence, system)]
    return Section("why", "Why", blocks, "simulated")


def _causes(evidence: Evidence, system: str, metric: str) -> tuple[list[list[Entry]], list[str]]:
    rows: list[list[Entry]] = []
    said: list[str] = []
    own = against(evidence, CONTROL, metric).get(system)
    if own and own.test:
        rows.append(["effect that could have been seen", plain_number(own.test.detectable, 4), "at 80 % power"])
    reached = compare(
        evidence,
        [
            difference("oracle-sid", START, metric),
            difference("oracle-utility", START, metric),
            Contrast((Side(START, f"reachable.{metric}"),), (Side(START, metric),)),
        ],
    )
    meanings = (
        ("oracle of the clicks less SFT", "room in hindsight"),
        ("oracle of the true utility less SFT", "what knowing the shopper is worth on next-day clicks"),
        ("SFT's own beam in the order of the true utility, less SFT", "the same inside what alignment can reorder"),
    )
    for (name, meaning), found in zip(meanings, reached, strict=True):
        if found.test:
            rows.append([name, effect(found), meaning])
    if (test := reached[2].test) and test.high <= 0:
        said.append(
            "**Next-day clicks do not reward the truth.** Ordering SFT's own beam by the true utility, which no method "
            "can know better, lowers this measure: clicks go to what the logger shows on top. A method that learns "
            "what shoppers want is invisible here or loses; true utility and the randomised bucket are where to look."
        )
    elif test and test.low > 0:
        said.append("Ordering SFT's own beam by the true utility raises this measure: clicks do reward the truth here.")
    runs, start = evidence.runs(system), evidence.runs(START)
    for name, figures, meaning in (
        ("negatives that are truly relevant", of_seeds(start, "pairs/pseudo"), "they pull against the truth (lab, D)"),
        (
            "pairs that SFT orders rightly, true negatives",
            of_seeds(start, "pairs/accuracy_true"),
            "little left to learn",
        ),
        ("… pseudo-negatives", of_seeds(start, "pairs/accuracy_pseudo"), "raising this one does harm"),
        ("gradient of the contrast / of SFT", of_seeds(runs, "gradient/ratio"), "under .01: inactive"),
        ("cosine of the two", of_seeds(runs, "gradient/cosine"), "near 1: the contrast repeats what SFT does"),
        ("saturated lists", of_seeds(runs, "contrast/push_saturated"), "no push left"),
        ("AUC of RDRW's state (eos_out)", of_seeds(runs, "rdrw/eos_out/auc"), ".5: no information"),
        ("AUC of the item vectors", of_seeds(runs, "rdrw/item_vector/auc"), "costs no training"),
        ("AUC of the model's own likelihood", of_seeds(runs, "auc/reward"), "what the model knows already"),
    ):
        if figures:
            rows.append([name, spread(figures), meaning])
    cosine = of_seeds(runs, "gradient/cosine")
    if cosine and min(cosine) >= REPEATS:
        mean = plain_number(sum(cosine) / len(cosine), 2)
        said.append(
            f"**The contrast mostly repeats SFT**: its gradient has a cosine of {mean} with that of the SFT term on "
            "the same lists, so SFT continued moves the same way without it."
        )
    low, high = of_seeds(runs, "rdrw/eos_out/auc_low"), of_seeds(runs, "rdrw/eos_out/auc_high")
    if low and high and min(low) <= 0.5 <= max(high):
        said.append(
            "**RDRW's similarity cannot tell pseudo-negatives from true ones** here (the interval of its AUC holds "
            ".5), so its weights are those of chance; section D of the lab shows what AUC they need to pay."
        )
    return rows, said


def _corners(evidence: Evidence, system: str) -> list[Block]:
    """The lab's largest and lowest corner on the language model, on the true utility and on clicks."""
    longer = {
        v.split(",", 1)[1]
        for cell in evidence.cells.values()
        if cell.system == system and (v := cell.variant).startswith((WIN, LOSE)) and "lists=" in v
    }
    if not longer:
        return [Text("Not run.")]
    setting = sorted(longer)[0]
    win, lose = f"{WIN},{setting}", f"{LOSE},{setting}"
    blocks: list[Block] = [
        Text(
            f"The [prefix lab](prefix-lab.md) (E) predicts {row(system)} above {row(CONTROL)} *on true utility* when "
            "no negative is relevant, and below it when half of them are, each with longer and faster alignment "
            f"(`{setting}`: four times the steps, three times the learning rate). The bed can set these; it cannot set "
            "the lab's share of accidental clicks, so only the signs and the order of the corners are predicted."
        )
    ]
    for metric in (*PRIMARY["utility"], *PRIMARY["click"]):
        up = difference(system, CONTROL, metric, variant=win, b_variant=setting)
        down = difference(system, CONTROL, metric, variant=lose, b_variant=setting, sign="-")
        apart = Contrast((Side(system, metric, win),), (Side(system, metric, lose),))
        found = compare(evidence, [up, down, apart])
        names = ("no relevant negative: better", "half of them relevant: worse", "the first above the second")
        target = metric.partition(".")[0]
        blocks.append(comparisons(list(zip(names, found, strict=True)), first=f"{measure(metric)} ({target})"))
    if table := _levels(evidence, system, setting, win, lose):
        blocks.append(table)
    return blocks


def _levels(evidence: Evidence, system: str, setting: str, win: str, lose: str) -> Table | None:
    metrics = [*PRIMARY["utility"], *PRIMARY["click"]]
    rows: list[list[Entry]] = []
    for name, which, variant in (
        (row(START), START, ""),
        (f"{row(CONTROL)}, longer", CONTROL, setting),
        (f"{row(system)}, no relevant negative", system, win),
        (f"{row(system)}, half relevant", system, lose),
    ):
        found = levels(evidence, which, metrics, variant=variant, seeds=sorted(evidence.runs(system, win), key=str))
        rows.append([name, *(plain_number(found[m].mean, 4) if m in found else "–" for m in metrics)])
    head = ["", *(f"{m.partition('.')[0]}: {measure(m)}" for m in metrics)]
    return Table(head, rows)


def checkpoints(evidence: Evidence) -> list[Block]:
    """Best against final checkpoint on day 7, by row: only the final one is scored on day 8."""
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
        rows.append([row(system), spread(begun), spread(best), spread(final), f"{same} of {len(valid)}"])
    if not rows:
        return []
    head = ["SID R@8 on validation lists", "SFT", "best checkpoint", "final checkpoint", "final is best"]
    note = "Tables of day 8 score the final checkpoint; the best one of day 7 is kept by training and not scored there."
    return [Heading("Best and final checkpoint"), Table(head, rows, note=note)]
