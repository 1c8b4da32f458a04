"""CQ-SID against RQ-VAE at equal sizes, in the paper's two protocols, with the paper's figures beside."""

from __future__ import annotations

from sidar.evaluate.document import Block, Cell, Fold, Heading, Section, Table, Text
from sidar.evaluate.hitrate import TRUNCATED
from sidar.pipeline.bakeoff.caveats import absent
from sidar.pipeline.bakeoff.page_parts import (
    Results,
    asked_of,
    cell_of,
    measures_table,
    signed,
    table_of,
    whole,
)
from sidar.pipeline.bakeoff.verdict import listed

OURS = ("rqvae", "cqsid", "cqsid-no-category", "cqsid-no-queries")
#: arXiv 2605.14434 [source: N1]: hit rate at beams 1, 10, 100, semantic prompts.
PAPER_SEMANTIC = {
    "rqvae": (0.0598, 0.2579, 0.5199),
    "cqsid": (0.0758, 0.3161, 0.6181),
    "cqsid-no-category": (0.0680, 0.2870, 0.5578),
    "cqsid-no-queries": (0.0596, 0.2691, 0.5652),
}
#: Personalised prompts: hit rate at beams 1 and 100, and among the first 1,000 items with the beam that gave them.
PAPER_PERSONAL = {"rqvae": (0.1359, 0.7513, 0.7607, 195), "cqsid": (0.1510, 0.8062, 0.7984, 160)}
BEAMS = (1, 5, 10, 50, 100)
UNTESTED = "CQ-SID − RQ-VAE is not tested: one of them missed the code budget."


def section(results: Results) -> Section:
    """Hit rates at equal beam, at half the beam and under truncation."""
    here = [name for name in OURS if name in whole(results)]
    if not {"rqvae", "cqsid"} <= set(here):
        gone = [name for name in ("rqvae", "cqsid") if name not in here]
        return Section("cqsid", "CQ-SID against RQ-VAE", [Text(f"Not compared: {absent(results, gone)}.")])
    each = results["swept"]
    systems = results["sets"][each]["systems"]
    modes = [mode for mode in ("semantic", "personalised") if f"beam/{mode}/hit@1" in systems["cqsid"]]
    blocks: list[Block] = [
        Text(
            f"{_equal(results, here)}; on {each}. *Equal beam*: a query is hit when a relevant item is "
            f"among all items of the beam's SIDs. *Truncation*: among the first {TRUNCATED:,} items of the expanded "
            "beam, so that IDs that hold more items gain nothing by it. *semantic* prompts hold the query alone, "
            "*personalised* ones history and profile too. The paper's log, catalogue (21 million items) and model "
            "(0.5 B) are others: what should agree is the sign."
        )
    ]
    for mode in modes:
        blocks += [Heading(f"Equal beam, {mode} prompts"), _equal_beam(results, here, mode)]
    blocks += [Heading("Half the beam"), *_half(results, modes)]
    blocks += [Heading(f"First {TRUNCATED:,} items"), *_truncated(results, here, modes)]
    measures = [f"beam/{mode}/hit@{width}" for mode in modes for width in BEAMS]
    measures += [f"top1k/{mode}/hit" for mode in modes]
    tests = asked_of(results, "cqsid", "item/ndcg@10", "item/recall@100", *measures)
    blocks.append(Text(_verdict(results, modes)))
    if tests:
        blocks.append(Fold("Paired tests", [table_of(results, tests)]))
    return Section("cqsid", "CQ-SID against RQ-VAE", blocks)


def _equal(results: Results, here: list[str]) -> str:
    """What is equal, and which methods missed the budget by how much: those are shown and not tested."""
    methods = results["methods"]
    missed = {name: methods[name]["bits_over"] for name in here if not methods[name]["equal"]}
    if not missed:
        return "Same encoder sizes, codes and bits"
    said = [f"{name} spends {abs(over):.1%} {'more' if over > 0 else 'less'}" for name, over in missed.items()]
    return (
        f"Same encoder sizes, **not the same bits**: {listed(said)} than {results['reference']}, where "
        f"{results['tolerance']:.0%} is allowed, so the figures of {listed(list(missed))} are shown and not tested"
    )


def _equal_beam(results: Results, here: list[str], mode: str) -> Table:
    systems = results["sets"][results["swept"]]["systems"]
    rows: list[list[Cell]] = []
    for name in here:
        row: list[Cell] = [name]
        row += [cell_of(systems[name].get(f"beam/{mode}/hit@{width}")) for width in BEAMS]
        row.append(cell_of(systems[name].get(f"beam/{mode}/items@{BEAMS[-1]}"), count=True))
        if mode == "semantic":
            row += [f"{value:.4f}" for value in PAPER_SEMANTIC[name]]
        else:
            paper = PAPER_PERSONAL.get(name)
            row += [f"{value:.4f}" for value in paper[:2]] if paper else ["", ""]
        rows.append(row)
    paper_beams = (1, 10, 100) if mode == "semantic" else (1, 100)
    head = [
        "",
        *(f"hit at {width}" for width in BEAMS),
        f"items at {BEAMS[-1]}",
        *(f"paper at {b}" for b in paper_beams),
    ]
    return Table(head, rows)


def _half(results: Results, modes: list[str]) -> list[Block]:
    """CQ-SID at half of RQ-VAE's beam: is it still as good?"""
    rows: list[list[Cell]] = []
    for test in asked_of(results, "half"):
        mode = test["measure"].split("/")[1]
        less, more = (int(text.rsplit("@", 1)[1]) for text in (test["measure"], test["other"]))
        rows.append(
            [
                f"{mode}: CQ-SID at {less} − RQ-VAE at {more}",
                signed(test["effect"]),
                f"{signed(test['low'])} to {signed(test['high'])}",
                "yes" if test["effect"] >= 0 else "no",
                "yes" if test["low"] >= 0 else "no" if test["high"] < 0 else "cannot tell here",
            ]
        )
    if not rows and not all(results["methods"][name]["equal"] for name in ("rqvae", "cqsid")):
        return [Text(UNTESTED)]
    if not rows:
        return [Text("Not measured: the index holds too few SIDs for these beams.")]
    head = ["", "difference of hit rates", "95 % interval", "as high in the mean", "surely as high"]
    return [Table(head, rows, note="The paper's claim: the same hit rate with at most half the beam.")]


def _truncated(results: Results, here: list[str], modes: list[str]) -> list[Block]:
    systems = results["sets"][results["swept"]]["systems"]
    blocks: list[Block] = []
    for mode in modes:
        names = {f"top1k/{mode}/hit": f"hit, {mode}", f"top1k/{mode}/sids": "SIDs read", f"top1k/{mode}/items": "items"}
        table = measures_table(systems, here, list(names), names=names.__getitem__)
        blocks += [table] if table else []
    items, cut = results["catalogue"]["items"], TRUNCATED
    paper = PAPER_PERSONAL
    blocks.append(
        Text(
            f"The paper, personalised: CQ-SID {paper['cqsid'][2]:.4f} with a beam of {paper['cqsid'][3]}, RQ-VAE "
            f"{paper['rqvae'][2]:.4f} with {paper['rqvae'][3]}. There 1,000 items are a twenty-thousandth of the "
            f"catalogue; here {cut:,} of {items:,} are {min(cut / max(items, 1), 1):.0%}, so nearly every query is "
            "hit and the measure has little left to tell."
        )
    )
    return blocks


def _verdict(results: Results, modes: list[str]) -> str:
    """The sign of every comparison of the paper, and whether the test sees it."""
    said = []
    for mode in modes:
        for measure, words in [(f"beam/{mode}/hit@{b}", f"at beam {b}") for b in (1, 10, 100)] + [
            (f"top1k/{mode}/hit", f"in the first {TRUNCATED:,} items")
        ]:
            for test in asked_of(results, "cqsid", measure, sets=[results["swept"]]):
                if test["a"] == "cqsid":
                    said.append(f"{mode} {words} {signed(test['effect'])} ({test['verdict']})")
    return "CQ-SID − RQ-VAE, hit rate: " + "; ".join(said) + "." if said else UNTESTED
