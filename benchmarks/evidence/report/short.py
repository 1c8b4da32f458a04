"""The answers first: one line per question that a reader comes with, and the words that the page
uses.
"""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import CONTROL, START, Result, against
from benchmarks.evidence.report.document import Block, Entry, Fold, Table, Text
from benchmarks.evidence.report.lab import predicted
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.parts import (
    against_twin,
    at_equal_rates,
    family,
    rows_at_equal_rates,
)
from benchmarks.evidence.report.shipped import against_controls
from benchmarks.evidence.report.show import DASH, effect, of_seeds, plain_number, verdict
from benchmarks.evidence.report.summary import lines
from benchmarks.evidence.report.unseen import BEST, alone, fused

WORDS = {
    "SID": (
        "Semantic ID: a few codes, written by the model token by token; several items may "
        "share one."
    ),
    "list": "one request of the log: what was clicked (positives; y_w* is the one that counts "
    "most) and what was shown "
    "and not clicked (negatives).",
    "pseudo-negative": "a negative that the simulator knows to be relevant: passed over, not bad.",
    "SFT, SFT continued": "the model before alignment, and the same model trained on the same "
    "lists without any "
    "negative: what a preference method has to beat.",
    "TLGD": (
        "token-level gradient detachment: codes that a negative shares with y_w* get no push "
        "(eq. 5)."
    ),
    "RDRW": "representation-based dynamic reward weighting: a negative whose hidden state is like "
    "y_w*'s is pushed "
    "less (eq. 6); `eos_out`, `last_code` and `item_vector` are the states that can be compared.",
    "softmax, printed": "two readings of the paper's eq. 2 ([errata](errata.md)): as the text "
    "describes it, and as it "
    "is printed.",
    "SID MRR, SID R@k, item nDCG@10": "mean reciprocal rank and recall of the first k SIDs of the "
    "beam, and nDCG of "
    "the first ten items; higher is better.",
    "lr_new": "learning rate of the new parameters (codes, heads); those of a pretrained encoder "
    "have a fixed share "
    "of it.",
    "p (Holm), holds": (
        "corrected for the number of comparisons of a table; intervals are not corrected."
    ),
}


def short(evidence: Evidence) -> list[Block]:
    """What a reader wants to know, each answered from the sections below."""
    system = evidence.registration["primary"]["system"]
    rows: list[list[Entry]] = []

    def ask(question: str, found: Result | None, metric: str) -> None:
        if found is not None:
            rows.append(
                [
                    question,
                    verdict(found.word),
                    f"{measure(metric)} {effect(found).text} {effect(found).short}",
                ]
            )

    click, utility = PRIMARY["click"][0], PRIMARY["utility"][1]
    ask(
        f"Does it beat {row(CONTROL)} on next-day clicks? (the primary endpoint)",
        against(evidence, CONTROL, click).get(system),
        click,
    )
    ask("… at the same learning rate?", at_equal_rates(evidence, click), click)
    ask(
        "… on the true utility, at the same learning rate?",
        at_equal_rates(evidence, utility),
        utility,
    )
    rows_of = list(rows_at_equal_rates(evidence, utility).items())
    if len(rows_of) > 1:
        ask(
            f"… the same with {rows_of[1][0]} instead of {rows_of[0][0].split()[0]}?",
            rows_of[1][1],
            utility,
        )
    for metric, target in ((click, "next-day clicks"), (utility, "the true utility")):
        as_shipped = next(iter(against_controls(evidence, metric).values()), None)
        if as_shipped is not None and as_shipped.test is not None:
            ask(
                f"Does it, as shipped, beat {row(CONTROL)} at the same rate on {target}?",
                as_shipped,
                metric,
            )
    ask(
        "Does it beat DPO, given the same SFT term?",
        against_twin(evidence, "dpo+sft", click),
        click,
    )
    words = [r.word for r in family(evidence, "Ablations", click).values() if r.test is not None]
    if words:
        counts = ", ".join(f"{w}: {words.count(w)}" for w in dict.fromkeys(words))
        rows.append(
            [f"Is it worth more than itself without a part ({len(words)} ablations)?", DASH, counts]
        )
    if auc := of_seeds(evidence.runs(system), "rdrw/eos_out/auc"):
        line = next(each for each in lines(evidence) if each.text.startswith("RDRW's similarity"))
        mean = plain_number(sum(auc) / len(auc))
        rows.append(
            [
                "Does RDRW's similarity know passed-over items?",
                verdict(line.words[0]),
                f"AUC {mean} (.5: no)",
            ]
        )
    corner = list(predicted(evidence, system, utility).values())
    if corner:
        ask(
            "Does it win where the lab says it must (no relevant negative, true utility)?",
            corner[0],
            utility,
        )
        ask("Does it lose where the lab says it must (half of them relevant)?", corner[1], utility)
    for name, which in (
        ("judged_test", "unseen judged queries (real)"),
        ("grounded_test", "unseen grounded queries"),
    ):
        metric = "item.ndcg@10"
        found = alone(evidence, name, metric).get(f"{row(START)} − {row(BEST)}")
        ask(f"Is the model alone better than {row(BEST)} on {which}?", found, metric)
        found = fused(evidence, name, metric).get(f"{row(system)} fused − {row(BEST)}")
        ask(f"… fused with it, after {row(system)}?", found, metric)
    terms: list[list[Entry]] = [[term, told] for term, told in WORDS.items()]
    return [
        Text(
            f"**In short**, of {row(system)}, on simulated traffic unless it says real; every "
            "line has its section."
        ),
        Table(["question", "answer", "effect (95 %)"], rows, (1, 2)) if rows else Text("Not run."),
        Fold("The words of this page", [Table(["word", "meaning"], terms, (1,))]),
    ]
