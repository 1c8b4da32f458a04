"""Headroom, before any verdict: what could be won at all (docs/evaluation.md)."""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import CONTROL, START, levels, room
from benchmarks.evidence.report.document import Block, Entry, Heading, Section, Table, Text
from benchmarks.evidence.report.headline import ITEM, SID
from benchmarks.evidence.report.names import PRIMARY, TARGETS, measure, row
from benchmarks.evidence.report.show import (
    DASH,
    effect,
    level,
    level_table,
    of_seeds,
    plain_number,
    row_seeds,
    spread,
)

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
    ("AUC of RDRW's similarity, SFT model", "rdrw/eos_out/auc", 3),
)


def headroom(evidence: Evidence) -> Section:
    """Oracles above SFT against what the primary comparison could have seen; then the lists."""
    blocks: list[Block] = [
        Text(
            "Without room above SFT no method can show anything. The oracle of the clicks knows in "
            "hindsight which SIDs were clicked and orders items inside an SID by the prior; the "
            "oracle of the true utility knows the shopper; *reachable* puts SFT's own beam into "
            "that order; quantised dense takes the SIDs nearest to the query's vector."
        )
    ]
    metrics = [f"click.{m}" for m in (*SID, *ITEM)]
    systems = [START, CONTROL, "raddpo", "quantised-dense", "oracle-utility", "oracle-sid"]
    if table := level_table(evidence, systems, metrics):
        blocks.append(_with_reachable(evidence, table, metrics))
    blocks += _room(evidence)
    runs = evidence.runs(START)
    found: list[list[Entry]] = [
        [name, spread(of_seeds(runs, key), digits)]
        for name, key, digits in LISTS
        if of_seeds(runs, key)
    ]
    if found:
        blocks += [
            Heading("The lists"),
            Table(["validation lists, SFT model", "mean (least … greatest seed)"], found),
        ]
    return Section("headroom", "Headroom", blocks, "simulated")


def _with_reachable(evidence: Evidence, table: Table, metrics: list[str]) -> Table:
    """The level table with SFT's own beam in the order of the true utility, over the same seeds."""
    seeds, _ = row_seeds(evidence, [(s, "") for s in (START, CONTROL, "raddpo")], metrics)
    found = levels(evidence, START, [f"reachable.{m}" for m in metrics], seeds=seeds)
    if not found:
        return table
    shown = [m for m in metrics if measure(m) in table.head]
    entries = [level(found.get(f"reachable.{m}")) for m in shown]
    own = [
        f"{row(START)}'s beam by true utility (reachable)",
        str(max(v.seeds for v in found.values())),
        *entries,
    ]
    at = next(
        (i for i, r in enumerate(table.rows) if r[0] == row("oracle-utility")), len(table.rows)
    )
    return Table(table.head, [*table.rows[:at], own, *table.rows[at:]], table.words, table.note)


def _room(evidence: Evidence) -> list[Block]:
    """What lies between SFT and perfect orders, beside what the primary comparison
    could have seen.
    """
    rows: list[list[Entry]] = []
    without, unknown = [], []
    for target, metrics in PRIMARY.items():
        for metric in metrics:
            found = room(evidence, metric)
            if all(r.test is None for r in (found.utility, found.reachable, found.hindsight)):
                continue
            name = f"{TARGETS[target]}: {measure(metric)}"
            if not found.enough:
                without.append(
                    f"{name} ({plain_number(found.least, 4)} < {plain_number(found.seen, 4)})"
                )
            if target != "utility" and found.utility.test is None and found.reachable.test is None:
                unknown.append(name)
            ratio = found.least / found.seen if found.seen > 0 else float("nan")
            oracles = [effect(r) for r in (found.hindsight, found.utility, found.reachable)]
            rows.append(
                [
                    name,
                    *oracles,
                    plain_number(found.least, 4),
                    plain_number(found.seen, 4),
                    plain_number(ratio, 1),
                ]
            )
    if not rows:
        return []
    head = [
        "less SFT",
        "oracle of this target",
        "oracle of the true utility",
        "reachable",
        "room",
        "effect that could have been seen",
        "room / effect",
    ]
    note = (
        "Room: the smaller of the oracle of the true utility and of SFT's own beam in its order "
        "(reachable), since nobody has hindsight of clicks; the target's own oracle where neither "
        "was measured, which is the oracle of the true utility on that target. The effect that "
        f"could have been seen is the primary comparison's, corrected for its family ({DASH}: not "
        "run)."
    )
    blocks: list[Block] = [Table(head, rows, note=note)]
    if without:
        blocks.append(
            Text(
                f"**No verdict, for want of room**: {'; '.join(without)}. Perfect knowledge would "
                "win less there than the test could see; every verdict word of these measures "
                "below is *cannot tell here*."
            )
        )
    if unknown:
        blocks.append(
            Text(f"Hindsight alone, so an upper bound that nobody can reach: {'; '.join(unknown)}.")
        )
    return blocks
