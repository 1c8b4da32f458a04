"""The controls that must lose, SA²CRQ on tail and cold items, and which figure of the IDs goes with recall."""

from __future__ import annotations

import numpy as np

from sidar.evaluate.document import Block, Cell, Fold, Section, Table, Text
from sidar.pipeline.bakeoff.caveats import absent, untested
from sidar.pipeline.bakeoff.claims import PRIMARY, SECOND
from sidar.pipeline.bakeoff.facts import figures as id_figures
from sidar.pipeline.bakeoff.page_parts import Results, asked_of, contenders, table_of, whole

#: Fixed-length RQ, and the steps from it to SA²CRQ.
LADDER = ("acrq", "sarq", "sarq+rqvae", "sarq+acrq")


def controls(results: Results) -> Section:
    """Does every control lose?"""
    blocks: list[Block] = [
        Text(
            "A comparison that cannot fail proves nothing: IDs that say nothing of their item, and SARQ's own "
            "lengths dealt at random, must lose to what they are the control of. *a* is the method, *b* its control."
        )
    ]
    main = asked_of(results, "controls", PRIMARY, SECOND)
    asked = [name for name, facts in results["methods"].items() if facts["must_lose_to"]]
    for name in asked:
        if why := untested(results, name):
            blocks.append(Text(f"**{name}** is not tested: {why}."))
    if not main:
        return Section(
            "controls",
            "Controls",
            [*blocks, *([] if asked else [Text("No control took part.")])],
        )
    for control in dict.fromkeys(test["b"] for test in main):
        own = [test for test in main if test["b"] == control]
        lost = [test for test in own if test["verdict"] == "holds"]
        won = [test for test in own if test["verdict"] == "does not hold"]
        word = "loses" if len(lost) == len(own) else "loses **in part**" if lost else "**is not told apart**"
        word = "**wins**" if won else word
        said = f"**{control}** {word} against {own[0]['a']}: behind in {len(lost)} of {len(own)} tests"
        blocks.append(Text(f"{said}{f', ahead in {len(won)}' if won else ''}."))
    blocks.append(table_of(results, main))
    if rest := [test for test in asked_of(results, "controls") if test not in main]:
        blocks.append(Fold("By popularity class", [table_of(results, rest)]))
    return Section("controls", "Controls", blocks)


def section(results: Results) -> Section:
    """Adaptive lengths and the frozen head manifold against fixed-length RQ: tail and cold items."""
    title, reference = "SA²CRQ: tail and cold items", results["reference"]
    here = [name for name in LADDER if name in whole(results)]
    if "sarq+acrq" not in here:
        return Section("tail", title, [Text(f"Not compared: {absent(results, ['sarq+acrq'])}.")])
    tests = [test for test in asked_of(results, "better", f"{SECOND}[tail]", f"{SECOND}[cold]") if test["a"] in here]
    blocks: list[Block] = [
        Text(
            "The papers' claim (arXiv 2602.23978): adaptive lengths give popular items longer IDs and cold ones "
            "shorter, the frozen manifold keeps the head as it is and finds more of the tail. Item R@100 of tail "
            f"and cold items against {reference} at the same bits, step by step: ACRQ alone, SARQ alone, both."
        ),
        *([table_of(results, tests)] if tests else []),
    ]
    for name in here:
        own = [test for test in tests if test["a"] == name]
        if not own:
            kept = results["methods"][name]["equal"]
            why = "no set has answers among tail or cold items" if kept else "it missed the code budget"
            blocks.append(Text(f"**{name}** is not tested: {why}."))
            continue
        words = [f"{test['measure'].split('[')[1].rstrip(']')} on {test['set']} {test['verdict']}" for test in own]
        blocks.append(Text(f"**{name}** finds more than {reference}: {'; '.join(words)}."))
    return Section("tail", title, blocks)


def figures(results: Results) -> Section:
    """Rank correlation over the methods between figures of the IDs and recall: a hint, with few points."""
    swept, names = results["swept"], whole(results)
    title = "Which figure of the IDs goes with recall"
    systems = results["sets"][swept]["systems"]
    known: dict[str, dict[str, float]] = {}
    for name in names:
        facts = results["methods"][name]
        lost = facts["quality"].get("reconstruction", {}).get("share_of_variance_lost")
        known[name] = id_figures(facts, {swept: systems}, swept, name) | ({} if lost is None else {"lost": lost})
    if len(names) < 4:
        return Section("figures", title, [Text("Fewer than four methods: no correlation to tell.")])
    words = {
        "quantised": "quantised dense R@100",
        "purity": "category purity, 2 codes",
        "collision_rate": "share of items that share their SID",
        "lost": "variance lost",
        "invalid": "invalid mass",
    }
    rows: list[list[Cell]] = []
    without = contenders(results)
    for key, text in words.items():
        row: list[Cell] = [text]
        for some in (names, without):
            for measure in (PRIMARY, SECOND):
                pairs = [(known[n][key], systems[n][measure]["mean"]) for n in some if key in known[n]]
                value = spearman(pairs) if len(pairs) > 3 else float("nan")
                row.append("–" if value != value else f"{value:+.2f}".replace("-", "−"))
        rows.append(row)
    head = ["", *(f"{m}, {who}" for who in ("all", "contenders") for m in ("nDCG@10", "R@100"))]
    note = (
        f"Spearman's rank correlation over {len(names)} methods, and over the {len(without)} contenders without the "
        f"controls, on {swept}. So few points are a hint of what to look at before training, no test."
    )
    return Section("figures", title, [Table(head, rows, note=note)])


def spearman(pairs: list[tuple[float, float]]) -> float:
    """Rank correlation of (x, y), ties at their mean rank; NaN where one of them does not vary. [known]"""
    x, y = (_ranks(np.asarray(column, float)) for column in zip(*pairs, strict=True))
    if x.std() == 0 or y.std() == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[inverse]
