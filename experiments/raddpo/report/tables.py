"""All tables of the evidence, section by section: what ``report`` writes as HTML."""

from __future__ import annotations

from experiments.raddpo.report.cells import Evidence
from experiments.raddpo.report.compare import (
    CONTROL,
    START,
    against,
    compare,
    levels,
    methods,
    room,
)
from experiments.raddpo.report.contrast import difference
from experiments.raddpo.report.families import claims, family
from experiments.raddpo.report.names import (
    PAPER_COLUMNS,
    PAPER_TABLE_1,
    PRIMARY,
    TARGETS,
    measure,
    row,
)
from experiments.raddpo.report.questions import GENERATIVE
from experiments.raddpo.report.show import (
    CLICK_AND_UTILITY,
    DASH,
    INVALID,
    Section,
    Table,
    about,
    all_words,
    base_rows,
    comparisons,
    effect,
    level,
    level_table,
    of_seeds,
    plain_number,
    signed,
    spread,
    verdict,
)
from experiments.raddpo.report.tables_dials import corners, dials, listing, shipped, tuning, unseen
from experiments.raddpo.report.tables_inside import denoising, hallucination, mechanisms

SID = ("sid.recall@8", "sid.recall@64", "sid.recall@128", "sid.mrr")
ITEM = ("item.ndcg@10", "item.recall@10", "item.recall@100", "item.mrr")


def sections(evidence: Evidence) -> list[Section]:
    """Return every section, headroom first; what was not run has no table."""
    makers = (
        *(headroom, claimed, main_table, differences, parts, denoising, hallucination),
        *(mechanisms, corners, dials, shipped, unseen, tuning, listing),
    )
    return [make(evidence) for make in makers]


# ---------------------------------------------------------------------- headroom and claims

LISTS = (
    ("pairs (y_w*, negative) probed", "pairs/count", 0),
    ("negatives that are truly relevant (passed over)", "pairs/pseudo", 3),
    ("separable pairs: other SID and other true grade", "pairs/separable", 3),
    ("inverted pairs: the negative is the better one", "pairs/inverted", 3),
    ("pairs that share the first code (the paper: .346)", "pairs/shared1", 3),
    ("pairs that share two codes (the paper: .019)", "pairs/shared2", 3),
    ("negatives dropped: their SID is a positive's", "lists/dropped", 3),
    ("negatives that repeat another negative's SID", "lists/repeated", 3),
    ("pairs that SFT already orders like the log", "pairs/accuracy", 3),
)


def headroom(evidence: Evidence) -> Section:
    section = Section(
        "Headroom",
        "Without room above SFT no method can show anything. *Room* is the smaller of the oracle "
        "of the true utility and of SFT's own beam in its order (reachable); hindsight counts "
        "where neither was measured. Where the room is smaller than what the primary comparison "
        "could have seen, every verdict of the measure is *cannot tell here*.",
    )
    clicks = [f"click.{m}" for m in (*SID, *ITEM)]
    rows = base_rows([*GENERATIVE, "quantised-dense", "oracle-utility", "oracle-sid"])
    section.add(level_table(evidence, rows, clicks, "Clicks"))
    reached = levels(evidence, START, [f"reachable.{m}" for m in clicks])
    if reached:
        cells = [level(reached.get(f"reachable.{m}")) for m in clicks]
        name = f"{row(START)}'s beam by true utility (reachable)"
        section.add(Table(["", *map(measure, clicks)], [[name, *cells]]))
    table = []
    for metric in (m for target in PRIMARY.values() for m in target):
        above = room(evidence, metric)
        oracles = (above.hindsight, above.utility, above.reachable)
        if any(result.test is not None for result in oracles):
            numbers = [plain_number(above.least, 4), plain_number(above.seen, 4)]
            word = "yes" if above.enough else "**no verdict, for want of room**"
            table.append([about(metric), *map(effect, oracles), *numbers, word])
    head = ["less SFT", "oracle of the target", "of the true utility", "reachable", "room"]
    section.add(Table([*head, "could have been seen", "room enough"], table, "Room"))
    runs = evidence.runs(START)
    facts = [[name, spread(of_seeds(runs, key), digits)] for name, key, digits in LISTS]
    section.add(Table(["validation lists, SFT model", "mean"], facts, "The lists"))
    return section


def claimed(evidence: Evidence) -> Section:
    section = Section(
        "The registered claims",
        "Claims against SFT and SFT continued are corrected (Holm) over the methods of the main "
        "table, the others among each other. The paper's effects are of its table 1 (SID MRR, "
        "1.7B).",
    )
    by_metric = [claims(evidence, metric) for metric in PRIMARY["click"]]
    table = []
    for claim in evidence.registration["claims"]:
        cells = []
        for results in by_metric:
            result = results[claim["id"]]
            seen = plain_number(result.detectable, 4)
            cells += [verdict(result.word), effect(result), seen]
        paper = signed(float(claim["paper"])) if claim.get("paper") is not None else DASH
        table.append([claim["text"], *cells, paper])
    head = [h for m in PRIMARY["click"] for h in (measure(m), "effect (95 %)", "could have seen")]
    section.add(Table(["claim", *head, "the paper"], table))
    sizes = [list(family(evidence, "sizes", m).values()) for m in PRIMARY["click"]]
    harm = list(family(evidence, "order of harm", "invalid.mass").values())
    noisy = [list(family(evidence, "noise slopes", m).values())[:1] for m in PRIMARY["click"]]
    whole = [
        ["RAD-DPO beats SFT at every size of the model", *map(all_words, sizes)],
        ["Invalid mass rises in the paper's order", all_words(harm), DASH],
        ["RDRW gains more where half of the negatives are made good items", *map(all_words, noisy)],
    ]
    section.add(Table(["claims of several comparisons", *map(measure, PRIMARY["click"])], whole))
    return section


# ---------------------------------------------------------------------- methods


def main_table(evidence: Evidence) -> Section:
    section = Section(
        "The main table",
        "Requests of day 8, means over queries and seeds. Items come from the same beam as SIDs. "
        "*Mass* is the probability on what is no product, exact over the index; *free@k* is the "
        "invalid share of a free beam. *Expected*: items inside an SID in random order.",
    )
    systems = list(dict.fromkeys([START, CONTROL, *methods(evidence), *evidence.systems()]))
    every = base_rows([*systems, *evidence.systems(kinds=("baseline", "ceiling"))])
    for target, title in TARGETS.items():
        metrics = [f"{target}.{m}" for m in (*SID, "sid.ndcg@10", *ITEM, "expected.ndcg@10")]
        section.add(level_table(evidence, every, metrics, title.capitalize()))
    section.add(level_table(evidence, base_rows(systems), INVALID, "Invalid output"))
    keys = {"invalid.mass": 0, "click.sid.recall@8": 5, "click.sid.mrr": 8, "click.item.mrr": 4}
    others = [s for s in PAPER_TABLE_1 if s != START]
    ours = {m: compare(evidence, [difference(s, START, m) for s in others]) for m in keys}
    beside = []
    for at, system in enumerate(others):
        cells = []
        for metric, column in keys.items():
            theirs = PAPER_TABLE_1[system][column] - PAPER_TABLE_1[START][column]
            cells += [signed(theirs), effect(ours[metric][at])]
        beside.append([row(system), *cells])
    head = [h for metric in keys for h in (f"{measure(metric)}, paper", "here")]
    section.add(Table(["less SFT", *head], beside, "Beside the paper's table 1"))
    printed = [[row(s), *(plain_number(v, 4) for v in t)] for s, t in PAPER_TABLE_1.items()]
    section.add(Table(["the paper, table 1", *PAPER_COLUMNS], printed))
    return section


def differences(evidence: Evidence) -> Section:
    section = Section(
        "Paired differences",
        "Effects are means over queries and seeds, intervals are clustered by query and not "
        "corrected. *Could have seen*: the true effect that the test finds four times in five, "
        "after the correction for its family. **Holds** and **does not hold** need p < α after "
        "Holm over the methods, three seeds and every one with the sign, and room above SFT.",
    )
    for control in (CONTROL, START):
        for metrics in PRIMARY.values():
            for metric in metrics:
                results = {row(s): r for s, r in against(evidence, control, metric).items()}
                title = f"Less {row(control)}: {about(metric)}"
                section.add(comparisons(results, title, registered=control == CONTROL))
    return section


def parts(evidence: Evidence) -> Section:
    section = Section("Ablations, ladder, controls", "Holm runs inside each table.")
    for name in ("ablations", "ladder", "controls", "twins"):
        for metric in CLICK_AND_UTILITY:
            title = f"{name.capitalize()}: {about(metric)}"
            section.add(comparisons(family(evidence, name, metric), title))
    for metric in ("order.sid.mrr", "random.sid.mrr", "invalid.mass"):
        results = family(evidence, "ablations", metric)
        section.add(comparisons(results, f"Ablations: {about(metric)}", directions=True))
    emptied = []
    for cell in evidence.runs("raddpo-skip-above").values():
        counts = cell.train.get("counts") or {}
        if counts.get("lists"):
            emptied.append(counts.get("lists_without_negatives", 0) / counts["lists"])
    name = "lists that skip-above leaves without a negative"
    section.add(Table(["", "share"], [[name, spread(emptied)]] if emptied else []))
    return section
