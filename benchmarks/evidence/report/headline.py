"""The main table, and what the methods differ by."""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import (
    CONTROL,
    START,
    against,
    compare,
    difference,
    levels,
    methods,
)
from benchmarks.evidence.report.document import (
    Block,
    Entry,
    Fold,
    Heading,
    Picture,
    Row,
    Section,
    Table,
    Text,
)
from benchmarks.evidence.report.names import (
    PAPER_COLUMNS,
    PAPER_TABLE_1,
    PRIMARY,
    TARGETS,
    measure,
    row,
)
from benchmarks.evidence.report.pictures import forest
from benchmarks.evidence.report.show import (
    comparisons,
    effect,
    level_table,
    plain_number,
    signed,
    verdict,
)

SID = ("sid.recall@8", "sid.recall@64", "sid.recall@128", "sid.mrr")
ITEM = ("item.ndcg@10", "item.recall@10", "item.recall@100", "item.mrr")
SEEDS_NOTE = (
    "Effects are means over queries and seeds, intervals are clustered by query. **Could have "
    "seen**: the true effect that this test finds four times in five *after the correction for its "
    "family* (at α / m for m comparisons, planned ones that are not run included). **Agree**: "
    "seeds with the sign of the effect; **sd**: between seeds. **Holds** and **does not hold** "
    "need p < α after Holm, three seeds and *every* one with the sign, and room above SFT; all "
    "else is **cannot tell here**."
)


def main_table(evidence: Evidence) -> Section:
    """All systems on all targets, and the paper's table 1 beside."""
    systems = list(dict.fromkeys([*methods(evidence), *evidence.systems()]))
    systems.sort(key=lambda s: (s not in (START, CONTROL), s != START))
    rest = evidence.systems(kinds=("baseline", "ceiling"))
    note = "With each mean its 95 % interval (± half of it in the Markdown), clustered by query. "
    share = float(evidence.registration["bed"]["settings"]["align"].get("item_share", 0.0))
    if share:
        note += (
            f"{share:.0%} of every aligned row's batch is item text → SID with an SFT loss, in "
            "DPO, SimPO and S-DPO too: that damps their harm. "
        )
    blocks: list[Block] = [
        Text(
            "Requests of day 8, mean over queries and seeds. Items come from the same beam as SIDs."
        )
    ]
    for title, metrics in (
        ("Clicks under the logger", [f"click.{m}" for m in (*SID, *ITEM, "expected.ndcg@10")]),
        (
            "Invalid output",
            ["invalid.mass", "invalid.free@10", "invalid.free@128", "invalid.not_code@10"],
        ),
    ):
        own = [*systems, *rest] if title.startswith("Clicks") else systems
        if table := level_table(evidence, own, metrics, note=note + _subset(evidence, title)):
            blocks += [Heading(title), table]
    others = []
    for target in ("order", "random", "utility"):
        metrics = [
            PRIMARY[target][0],
            *([f"{target}.sid.recall@8"] if target != "utility" else []),
            PRIMARY[target][1],
        ]
        if target != "utility":
            metrics.append(f"{target}.expected.ndcg@10")
        if table := level_table(evidence, [*systems, *rest], metrics):
            others += [Heading(TARGETS[target].capitalize()), table]
    if others:
        blocks.append(
            Fold(
                "The other three targets: orders, clicks in the randomised bucket, true utility",
                others,
            )
        )
    return Section(
        "table",
        "The main table",
        [*blocks, Heading("Beside the paper's table 1"), *_beside(evidence)],
        "simulated",
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
    systems = [s for s in PAPER_TABLE_1 if s != START]
    ours = {m: compare(evidence, [difference(s, START, m) for s in systems]) for m in keys}
    rows: list[list[Entry]] = []
    for i, system in enumerate(systems):
        entries: list[Entry] = []
        for metric, column in keys.items():
            entries += [
                signed(PAPER_TABLE_1[system][column] - base[column]),
                effect(ours[metric][i]),
            ]
        rows.append([row(system), *entries])
    head = ["less SFT"]
    for metric in keys:
        name = "halluc. / invalid mass" if metric.startswith("invalid") else measure(metric)
        head += [f"{name}, paper", "here"]
    whole = [[row(s), *(plain_number(v, 4) for v in said)] for s, said in PAPER_TABLE_1.items()]
    note = (
        "Here: paired by seed and query, with the 95 % interval. Another catalogue, model and log: "
        "only signs and sizes against SFT can be compared. The paper's hallucination rate is of "
        "free generation and undefined in the text; ours is exact mass."
    )
    return [
        Table(head, rows, note=note),
        Fold("The paper's table 1 (1.7B) as printed", [Table(["", *PAPER_COLUMNS], whole)]),
    ]


# ---------------------------------------------------------------------- differences


def differences(evidence: Evidence) -> Section:
    """Every method against SFT-continued and against SFT, on four targets."""
    primary = evidence.registration["primary"]
    blocks: list[Block] = [
        Text(
            f"The primary endpoint is {row(primary['system'])} − {row(primary['against'])} on "
            f"{' and '.join(f'`{m}`' for m in primary['metrics'])}. The sign of each method "
            "against SFT-continued was registered before the first run. **Met**: yes, no, or open "
            "where the test cannot tell; a method registered as too small to see is *not "
            f"contradicted* where nothing is seen, which proves nothing. {SEEDS_NOTE} Holm runs "
            "over the methods."
        )
    ]
    pictures = []
    for target, (sid, _) in PRIMARY.items():
        found = against(evidence, CONTROL, sid)
        rows = [
            (row(s), r, {"+": "better", "-": "worse", "0": "nothing seen"}[r.contrast.sign])
            for s, r in found.items()
        ]
        caption = f"{TARGETS[target].capitalize()}: {measure(sid)}, method − SFT continued"
        if svg := forest(rows, label=f"difference of {measure(sid)} ({target})"):
            pictures.append(Picture(svg, caption, f"evidence-forest-{target}.svg"))
    if pictures:
        blocks += [
            Row(pictures),
            Text(
                "Bars: 95 % intervals; green and red only after Holm and where every seed agrees. "
                "Rings: seeds. Grey boxes: effects that this test would miss more often than once "
                "in five."
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
            blocks += (
                tables
                if target == "click"
                else [Fold(f"Against {name}: {TARGETS[target]}", tables)]
            )
    if why := _reasons(evidence):
        blocks.append(why)
    return Section("differences", "Paired differences", blocks, "simulated")


def _reasons(evidence: Evidence) -> Block | None:
    """The registered signs with their reasons, and what came of them."""
    rows = []
    for system, rule in evidence.registration["expected"].items():
        words = [
            verdict(against(evidence, CONTROL, PRIMARY[t][0])[system].met)
            if system != CONTROL
            else "–"
            for t in TARGETS
        ]
        rows.append(
            [
                row(system),
                " ".join(str(rule.get(t, "")) for t in TARGETS),
                *words,
                str(rule.get("why", "")),
            ]
        )
    head = [
        "method",
        "signs: " + " ".join(TARGETS),
        *(f"{t}: met" for t in TARGETS),
        "the reason, as registered",
    ]
    return Fold(
        "Every registered sign (SID level) with its reason", [Table(head, rows, (1, 2, 3, 4, 5, 6))]
    )
