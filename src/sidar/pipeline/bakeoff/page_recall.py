"""Recall at both levels, by popularity and by seen or unseen query, and what comes out that is no product."""

from __future__ import annotations

from sidar.evaluate.document import Block, Fold, Heading, Section, Text
from sidar.evaluate.slices import CLASSES
from sidar.evaluate.table import about
from sidar.pipeline.bakeoff.claims import SECOND
from sidar.pipeline.bakeoff.page_parts import Results, asked_of, contenders, measures_table, table_of, whole

ITEM = ("item/ndcg@10", "item/mrr", "item/recall@10", "item/recall@100", "items/returned")
SID = ("sid/mrr", "sid/recall@1", "sid/recall@8", "sid/recall@64")
INVALID = ("invalid/mass", "invalid/free@10", "invalid/free@128", "invalid/not_code@10")
BASELINES = ("dense", "bm25")


def section(results: Results, prefix: str) -> Section:
    """Per set: items and SIDs, means with intervals; the second endpoint's tests behind a click."""
    rows = [*whole(results), *BASELINES]
    outside = set(rows) - set(contenders(results))
    blocks: list[Block] = []
    for each, facts in results["sets"].items():
        blocks += [Heading(each), Text(f"{about(facts)}.")]
        for measures in (ITEM, SID):
            table = measures_table(facts["systems"], rows, measures, outside=outside)
            blocks += [table] if table else []
    blocks.append(
        Text(
            "Means over queries with 95 % bootstrap intervals, clustered by query. Bold: the highest of the "
            "contenders, which is no verdict. SID columns are each method's own IDs and do not compare methods."
        )
    )
    if tests := asked_of(results, "better", SECOND):
        blocks.append(Fold("Paired tests of item R@100", [table_of(results, tests)]))
    return Section("recall", "Recall of items and of IDs", blocks)


def found(results: Results) -> Section:
    """Item R@100 by popularity class of the item, and by seen and unseen queries."""
    rows = [*whole(results), *BASELINES]
    outside = set(rows) - set(contenders(results))
    blocks: list[Block] = []
    for each, facts in results["sets"].items():
        by_class = measures_table(facts["systems"], rows, [f"{SECOND}[{name}]" for name in CLASSES], outside=outside)
        returned = measures_table(facts["systems"], rows, [f"items/returned[{name}]" for name in CLASSES])
        by_query = measures_table(
            facts["systems"],
            rows,
            [f"{measure}[{word}]" for word in ("seen", "unseen") for measure in ("item/ndcg@10", SECOND)],
            outside=outside,
        )
        blocks.append(Heading(each))
        blocks += [table for table in (by_class, by_query) if table]
        if returned:
            blocks.append(Fold("Items returned per query, by class (the papers' Ret-Per, as we read it)", [returned]))
    measures = [f"{SECOND}[{word}]" for word in (*CLASSES, "seen", "unseen")]
    if tests := asked_of(results, "better", *measures):
        told = [test for test in tests if test["verdict"] != "cannot tell here"]
        said = f"{len(told)} of {len(tests)} paired tests by class or kind of query tell a method from the reference."
        blocks += [Text(said), *([table_of(results, told)] if told else [])]
        blocks.append(Fold("All of them", [table_of(results, tests)]))
    return Section("classes", "Who is found: head, torso, tail, cold; seen and unseen", blocks)


def invalid(results: Results) -> Section:
    """Exact invalid mass and invalid shares of free beams, with the index's density beside them."""
    rows = whole(results)
    outside = set(rows) - set(contenders(results))
    blocks: list[Block] = [
        Text(
            "Constrained decoding writes products only; this is what the models would write without it. *mass*: "
            "probability on what is no product, exact over the index. *free@k*: share of invalid outputs among the "
            "first k of a free beam of 128. Lower is better, but sparse IDs make it harder: the share of all "
            "writable IDs that are "
            "products is " + ", ".join(f"{results['methods'][name]['density']:.2%} ({name})" for name in rows) + "."
        )
    ]
    for each, facts in results["sets"].items():
        table = measures_table(facts["systems"], rows, INVALID, lower=True, outside=outside)
        if table:
            counted = max(
                int(cells["invalid/mass"]["n"]) for cells in facts["systems"].values() if "invalid/mass" in cells
            )
            blocks += [Heading(f"{each} ({counted:,} queries)"), table]
    if tests := asked_of(results, "better", "invalid/mass"):
        blocks.append(table_of(results, tests, "A negative effect is less invalid mass, which is better."))
    return Section("invalid", "Hallucination", blocks)
