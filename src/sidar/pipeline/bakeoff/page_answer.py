"""The answer, who took part and at what budget, and how to read the page."""

from __future__ import annotations

from typing import Any

from sidar.evaluate.charts import intervals
from sidar.evaluate.document import Block, Cell, Picture, Section, Table, Text
from sidar.pipeline.bakeoff.page_parts import Results, asked_of, colours, table_of, whole


def answer(results: Results, prefix: str) -> Section:
    """The sentence's evidence: per set the leader and those that stand with it; tests against the reference."""
    led, reference, primary = results["leaders"], results["reference"], results["primary"]
    rows: list[list[Cell]] = [
        [each, one["leader"], ", ".join(one["with"]), f"{one['means'][one['leader']]:.3f}", f"{one['detectable']:.4f}"]
        for each, one in led["sets"].items()
    ]
    rule = (
        "The rule was fixed before any run: the endpoint is item-level nDCG@10; on each set the method with the "
        "highest mean leads, and every method that it does not beat significantly (paired, clustered by query, "
        "Holm) stands with it. A method is called best where it alone leads or stands with the leader on every set."
    )
    head = ["set", "leader", "stand with it", "its nDCG@10", "largest difference that may hide"]
    blocks: list[Block] = [Text(rule), Table(head, rows, words=(1, 2))]
    colour = colours(results)
    for each, facts in results["sets"].items():
        bars = [
            (name, cell["mean"], cell["low"], cell["high"], colour[name])
            for name in whole(results)
            if (cell := facts["systems"].get(name, {}).get(primary))
        ]
        if bars:
            caption = f"Item nDCG@10 on {each} with 95 % intervals"
            blocks.append(Picture(intervals(bars, label="nDCG@10"), caption, f"{prefix}ndcg-{each}.svg"))
    tests = asked_of(results, "better", primary)
    if tests:
        note = (
            "Randomisation tests that swap methods per query, Holm over the methods of a set. *detectable*: the "
            "smallest true effect that the test would see at 80 % power. The verdict says whether the method is "
            f"better than {reference}."
        )
        blocks.append(table_of(results, tests, note))
    return Section("answer", "The answer", blocks)


def entrants_section(results: Results) -> Section:
    """One row per method: what it is, its codes, bits, IDs and cost; and which failed or missed the budget."""
    wanted = results["methods"][results["reference"]]["bits"]
    rows: list[list[Cell]] = []
    for name, facts in results["methods"].items():
        if "failed" in facts:
            rows.append([name, facts["about"], "failed", "", "", "", "", "", "", ""])
            continue
        quality = facts["quality"]
        rows.append(
            [
                name,
                facts["about"],
                "/".join(map(str, facts["codebook_sizes"])),
                f"{facts['bits']:.2f}",
                f"{facts['bits_over']:+.1%}".replace("-", "−") + ("" if facts["equal"] else " (not equal)"),
                f"{quality['sids']:,.0f}",
                f"{facts['mean_length']:.2f}",
                f"{facts['seconds'].get('sid', 0):,.0f}",
                f"{facts['seconds'].get('sft', 0):,.0f}",
                f"{facts['seconds'].get('measure', 0):,.0f}",
            ]
        )
    head = ["method", "what it is", "codes", "bits per item", "over", "SIDs", "codes per SID", "fit", "SFT", "scoring"]
    tolerance = results["tolerance"]
    blocks: list[Block] = [
        Text(
            f"Every method has the same code budget: Σ over items and their codes of log₂ K is {wanted:.2f} bits per "
            f"item, equal within {tolerance:.0%}. Methods of one length have the reference's codebooks; adaptive "
            "lengths spend the same bits; a method that adds codes of its own gets smaller codebooks until it fits. "
            f"All train the same model on the same rows: {results['model']['steps']} steps of "
            f"{results['model']['batch_size']}, seed{'s' if len(results['seeds']) > 1 else ''} "
            f"{', '.join(map(str, results['seeds']))}."
        ),
        Table(head, rows, words=(1, 2), note="*fit, SFT, scoring*: CPU seconds of all threads together."),
    ]
    for name, facts in results["methods"].items():
        if "failed" in facts:
            blocks.append(
                Text(f"**{name} failed** at `{facts['failed']}` (seed {facts['failed_seed']}): {facts['error']}")
            )
        elif not facts["equal"]:
            blocks.append(
                Text(
                    f"**{name} misses the budget** by {facts['bits_over']:+.1%} ({facts['bits']:.2f} bits per item): "
                    "its rows are shown, and no test and no verdict uses them."
                )
            )
        else:
            for said in [one["says"] for one in facts["quality"].get("collapse", [])]:
                blocks.append(Text(f"**{name}**: {said}."))
    return Section("entrants", "Who took part", blocks)


def _item_level(beams: dict[str, Any]) -> str:
    """How items were ranked: results of older versions listed SIDs whole, from a beam of their own."""
    if "item" in beams:
        return (
            "**Item level**: SIDs expand in beam order into their items, inside an SID by the prior of the training "
            f"days. Item columns use a beam of {beams['item']}, SID columns one of {beams['sid']}."
        )
    return (
        "**Item level**: an item scores log π(SID) + log of its share of the SID's training clicks. SID and item "
        f"columns use a beam of {beams['beam']}."
    )


def _seen(beams: dict[str, Any]) -> str:
    """What a seen query is: results of older versions asked for its text alone."""
    if "item" in beams:
        return "**seen, unseen**: whether the query's text occurs on a training day."
    return "**seen, unseen**: whether a request before the test had a click, cart or order for the same query."


def reading(results: Results) -> Section:
    """Words of the page, and where its figures come from."""
    facts = results["catalogue"]["classes"]
    classes = ", ".join(f"{name} {n:,}" for name, n in facts.items())
    lines = [
        _item_level(results["beams"]),
        "**SID level**: a SID's grade is the highest of its items. Each method is scored on its own IDs, so these "
        "columns do not compare methods: coarser IDs are easier to hit.",
        "**head, torso, tail, cold**: items by clicks of the training days (head holds half of them, torso up to 90 "
        f"%, cold none): {classes}. Recall of a class is over the queries that have a relevant item in it.",
        _seen(results["beams"]),
        "**quantised dense**: SIDs ranked by the cosine of the query's vector and what the tokenizer restores of their "
        "items, no model asked: the embedding hit rate of the IDs.",
        "**invalid mass**: probability that the model puts on what is no product, exact over the index.",
        "Every figure is made from `results.json`; `per_query.parquet` beside it holds set, system, measure, query "
        "and value of everything that was measured, `queries.parquet` the queries and their clusters.",
    ]
    return Section("reading", "How to read this page", [Text(line) for line in lines])
