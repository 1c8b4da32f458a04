"""Sections 1–3: headroom first, then the main table, then what the methods differ by."""

from __future__ import annotations

from functools import cache

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import Contrast, Result, Side, compare, difference, levels
from benchmarks.evidence.report.document import Block, Fold, Heading, Picture, Row, Section, Table, Text
from benchmarks.evidence.report.names import PAPER_COLUMNS, PAPER_TABLE_1, PRIMARY, TARGETS, measure, row
from benchmarks.evidence.report.pictures import forest
from benchmarks.evidence.report.show import (
    comparisons,
    effect,
    level_table,
    of_seeds,
    plain_number,
    signed,
    spread,
    verdict,
)

CONTROL, START = "sft-continued", "sft"
SID = ("sid.recall@8", "sid.recall@64", "sid.recall@128", "sid.mrr")
ITEM = ("item.ndcg@10", "item.recall@10", "item.recall@100", "item.mrr")
SEEDS_NOTE = (
    "Effects are means over queries and seeds, intervals are clustered by query. **Could have seen**: the true effect "
    "that this test finds four times in five. **Agree**: seeds with the sign of the effect; **sd**: between seeds."
)


def methods(evidence: Evidence) -> list[str]:
    """The rows of the main table, as registered."""
    return list(evidence.registration["expected"])


@cache
def against(evidence: Evidence, control: str, metric: str) -> dict[str, Result]:
    """{method: method − control}, Holm over the methods; the claimed sign is the registered one where it is known."""
    rules, target = evidence.registration["expected"], metric.partition(".")[0]
    rows = [m for m in methods(evidence) if m != control]
    if control != CONTROL and CONTROL not in rows:
        rows.insert(0, CONTROL)
    contrasts = []
    for system in rows:
        sign = str(rules[system].get(target, "+")) if control == CONTROL else "+"
        contrasts.append(difference(system, control, metric, sign=sign))
    return {each.contrast.plus[0].system: each for each in compare(evidence, contrasts)}


# ---------------------------------------------------------------------- 1


def headroom(evidence: Evidence) -> Section:
    """What could be won at all: before any table of methods (protocol.md §3)."""
    blocks: list[Block] = [
        Text(
            "Without room above SFT no method can show anything. The oracle knows which SIDs were clicked and orders "
            "items inside an SID by the prior; quantised dense takes the SIDs nearest to the query's vector."
        )
    ]
    metrics = [f"click.{m}" for m in (*SID, *ITEM)]
    if table := level_table(
        evidence, [START, CONTROL, "raddpo", "quantised-dense", "oracle-utility", "oracle-sid"], metrics
    ):
        blocks.append(table)
    blocks += _room(evidence)
    runs = evidence.runs(START)
    facts = (
        ("pairs (y_w*, negative) probed", "pairs/count", 0),
        ("negatives that are truly relevant (passed over)", "pairs/pseudo", 3),
        ("separable pairs: other SID and other true grade", "pairs/separable", 3),
        ("inverted pairs: the negative is the better one", "pairs/inverted", 3),
        ("pairs that share the first code (the paper: .346)", "pairs/shared1", 3),
        ("pairs that share two codes (the paper: .019)", "pairs/shared2", 3),
        ("negatives dropped: their SID is a positive's", "lists/dropped", 3),
        ("pairs that SFT already orders like the log", "pairs/accuracy", 3),
        ("AUC of RDRW's similarity, SFT model", "rdrw/eos_out/auc", 3),
    )
    found = [[name, spread(of_seeds(runs, key), digits)] for name, key, digits in facts if of_seeds(runs, key)]
    if found:
        blocks += [Heading("The lists"), Table(["validation lists, SFT model", "mean (least … greatest seed)"], found)]
    return Section("headroom", "Headroom", blocks, "simulated")


def _room(evidence: Evidence) -> list[Block]:
    """What lies between SFT and perfect orders, beside what the primary comparison could have seen."""
    system = evidence.registration["primary"]["system"]
    rows = []
    for target, metrics in PRIMARY.items():
        for metric in metrics:
            own = against(evidence, CONTROL, metric).get(system)
            seen = own.test.detectable if own and own.test else float("nan")
            (oracle,) = compare(evidence, [difference("oracle-sid", START, metric)])
            (utility,) = compare(evidence, [difference("oracle-utility", START, metric)])
            if oracle.test is None:
                continue
            times = plain_number(oracle.test.effect / seen, 1)
            rows.append(
                [f"{TARGETS[target]}: {measure(metric)}", effect(oracle), effect(utility), plain_number(seen, 4), times]
            )
    if not rows:
        return []
    head = [
        "less SFT",
        "oracle of this target",
        "oracle of the true utility",
        "effect that could have been seen",
        "oracle / effect",
    ]
    note = (
        "Where the last column is below one the bed could not show even a perfect order, and there is no verdict. An "
        "order by true utility that gains little on clicks says how much of next-day clicks is the logger and chance."
    )
    return [Table(head, rows, note=note)]


# ---------------------------------------------------------------------- 2


def main_table(evidence: Evidence) -> Section:
    """All systems on all targets, and the paper's table 1 beside."""
    systems = list(dict.fromkeys([*methods(evidence), *evidence.systems()]))
    systems.sort(key=lambda s: (s not in (START, CONTROL), s != START))
    rest = evidence.systems(kinds=("baseline", "ceiling"))
    note = "With each mean its 95 % interval (± half of it in the Markdown), clustered by query. "
    blocks: list[Block] = [
        Text("Requests of day 8, mean over queries and seeds. Items come from the same beam as SIDs.")
    ]
    for title, metrics in (
        ("Clicks under the logger", [f"click.{m}" for m in (*SID, *ITEM, "expected.ndcg@10")]),
        ("Invalid output", ["invalid.mass", "invalid.free@10", "invalid.free@128", "invalid.not_code@10"]),
    ):
        own = [*systems, *rest] if title.startswith("Clicks") else systems
        if table := level_table(evidence, own, metrics, note=note + _subset(evidence, title)):
            blocks += [Heading(title), table]
    others = []
    for target in ("order", "random", "utility"):
        metrics = [PRIMARY[target][0], *([f"{target}.sid.recall@8"] if target != "utility" else []), PRIMARY[target][1]]
        if target != "utility":
            metrics.append(f"{target}.expected.ndcg@10")
        if table := level_table(evidence, [*systems, *rest], metrics):
            others += [Heading(TARGETS[target].capitalize()), table]
    if others:
        blocks.append(Fold("The other three targets: orders, clicks in the randomised bucket, true utility", others))
    return Section(
        "table", "The main table", [*blocks, Heading("Beside the paper's table 1"), *_beside(evidence)], "simulated"
    )


def _subset(evidence: Evidence, title: str) -> str:
    if not title.startswith("Invalid"):
        return "Expected nDCG: if the items inside an SID came in random order."
    found = levels(evidence, START, ["invalid.mass"]).get("invalid.mass")
    requests = f" ({found.n // max(found.seeds, 1)} requests of each seed)" if found else ""
    mass = f"Mass: probability on what is no product, exact over the index{requests}."
    return f"{mass} free@k: invalid share of a free beam."


def _beside(evidence: Evidence) -> list[Block]:
    """Differences to SFT, theirs and ours: absolute values of other catalogues say nothing."""
    keys = {"invalid.mass": 0, "click.sid.recall@8": 5, "click.sid.mrr": 8, "click.item.mrr": 4}
    base = PAPER_TABLE_1[START]
    ours = {s: levels(evidence, s, list(keys)) for s in PAPER_TABLE_1}
    rows = []
    for system, said in PAPER_TABLE_1.items():
        if system == START:
            continue
        entries = []
        for metric, column in keys.items():
            a, b = ours[system].get(metric), ours[START].get(metric)
            entries += [signed(said[column] - base[column]), signed(a.mean - b.mean) if a and b else "–"]
        rows.append([row(system), *entries])
    head = ["less SFT"]
    for metric in keys:
        name = "halluc. / invalid mass" if metric.startswith("invalid") else measure(metric)
        head += [f"{name}, paper", "here"]
    whole = [[row(s), *(plain_number(v, 4) for v in said)] for s, said in PAPER_TABLE_1.items()]
    note = (
        "Another catalogue, model and log: only signs and sizes against SFT can be compared. The paper's "
        "hallucination rate is of free generation and undefined in the text; ours is exact mass."
    )
    return [
        Table(head, rows, note=note),
        Fold("The paper's table 1 (1.7B) as printed", [Table(["", *PAPER_COLUMNS], whole)]),
    ]


# ---------------------------------------------------------------------- 3


def differences(evidence: Evidence) -> Section:
    """Every method against SFT-continued and against SFT, on four targets."""
    primary = evidence.registration["primary"]
    blocks: list[Block] = [
        Text(
            f"The primary endpoint is {row(primary['system'])} − {row(primary['against'])} on "
            f"{' and '.join(f'`{m}`' for m in primary['metrics'])}. The sign of each method against SFT-continued was "
            "registered before the first run. **Met**: yes, no, or open where the test cannot tell; a method "
            f"registered as too small to see meets that where nothing is seen. {SEEDS_NOTE} Holm runs over the "
            "methods."
        )
    ]
    pictures = []
    for target, (sid, _) in PRIMARY.items():
        found = against(evidence, CONTROL, sid)
        rows = [
            (row(s), r, {"+": "better", "-": "worse", "0": "nothing seen"}[r.contrast.sign]) for s, r in found.items()
        ]
        caption = f"{TARGETS[target].capitalize()}: {measure(sid)}, method − SFT continued"
        if svg := forest(rows, label=f"difference of {measure(sid)} ({target})"):
            pictures.append(Picture(svg, caption, f"evidence-forest-{target}.svg"))
    if pictures:
        blocks += [
            Row(pictures),
            Text(
                "Bars: 95 % intervals; green and red only after Holm. Rings: seeds. Grey boxes: effects that this "
                "test would miss more often than once in five."
            ),
        ]
    for control, name in ((CONTROL, "SFT continued"), (START, "SFT")):
        blocks.append(Heading(f"Against {name}"))
        for target, metrics in PRIMARY.items():
            tables: list[Block] = []
            for metric in metrics:
                found = against(evidence, control, metric)
                rows = [(row(s), r) for s, r in found.items()]
                first = f"{measure(metric)}, {TARGETS[target]}"
                tables.append(comparisons(rows, first=first, registered=control == CONTROL))
            blocks += tables if target == "click" else [Fold(f"Against {name}: {TARGETS[target]}", tables)]
    if why := _reasons(evidence):
        blocks.append(why)
    return Section("differences", "Paired differences", blocks, "simulated")


def _reasons(evidence: Evidence) -> Block | None:
    """The registered signs with their reasons, and what came of them."""
    rows = []
    for system, rule in evidence.registration["expected"].items():
        words = [
            verdict(against(evidence, CONTROL, PRIMARY[t][0])[system].met) if system != CONTROL else "–"
            for t in TARGETS
        ]
        rows.append([row(system), " ".join(str(rule.get(t, "")) for t in TARGETS), *words, str(rule.get("why", ""))])
    head = ["method", "signs: " + " ".join(TARGETS), *(f"{t}: met" for t in TARGETS), "the reason, as registered"]
    return Fold("Every registered sign (SID level) with its reason", [Table(head, rows, (1, 2, 3, 4, 5, 6))])


def interaction(a: str, b: str, metric: str, variant: str) -> Contrast:
    """(a − b) at ``variant`` less (a − b) at the base setting."""
    return Contrast(
        (Side(a, metric, variant), Side(b, metric)), (Side(b, metric, variant), Side(a, metric)), name=variant
    )
