"""What each part of RAD-DPO does."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import CONTROL, START, Contrast, Result, compare, difference
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
from benchmarks.evidence.report.names import PAPER_TABLE_1, PRIMARY, measure, row
from benchmarks.evidence.report.pictures import forest
from benchmarks.evidence.report.show import (
    comparisons,
    effect,
    signed,
    tally,
    verdict,
)

ABLATIONS = (
    "raddpo-no-tlgd",
    "raddpo-no-rdrw",
    "raddpo-no-mlsft",
    "raddpo-no-mlsft-none",
    "raddpo-pairwise",
    "raddpo-paper",
)
LADDER = (
    (START, ""),
    (CONTROL, ""),
    ("raddpo-contrast", ""),
    ("raddpo-no-rdrw", ""),
    ("raddpo", ""),
)
STEPS = ("more steps on the lists", "+ contrast", "+ TLGD", "+ RDRW")
RATE_STEP = "at RAD-DPO's own learning rate"
CONTROLS = (
    ("raddpo", "raddpo-constant", "RDRW against one constant weight"),
    ("raddpo", "raddpo-shuffled", "RDRW against its own weights shuffled"),
    ("raddpo-truth", "raddpo", "a perfect denoiser against RDRW"),
    ("raddpo-truth", "raddpo-no-rdrw", "a perfect denoiser against none"),
    ("raddpo-skip-above", "raddpo-no-rdrw", "only negatives above a click, against all"),
    ("raddpo-ips", "raddpo-no-rdrw", "inverse propensity against none"),
    ("raddpo", "raddpo-skip-above", "RDRW against skip-above"),
    ("raddpo", "raddpo-ips", "RDRW against inverse propensity"),
)
TWINS = (
    ("dpo+sft", "dpo", "what the SFT term adds to DPO"),
    ("simpo+sft", "simpo", "what the SFT term adds to SimPO"),
    ("sdpo+sft", "sdpo", "what the SFT term adds to S-DPO"),
    ("raddpo", "dpo+sft", "RAD-DPO against DPO + SFT"),
    ("raddpo", "simpo+sft", "RAD-DPO against SimPO + SFT"),
    ("raddpo", "sdpo+sft", "RAD-DPO against S-DPO + SFT"),
)


def parts(evidence: Evidence) -> Section:
    """Ablations, the ladder, the controls: each family corrected by itself."""
    blocks: list[Block] = [
        Text(
            "**Holds** means that the first row is better than the second. Holm runs inside each "
            "table and measure. The cheap denoisers (weights from the truth, skip-above, inverse "
            "propensity) run *without* RDRW, in its place."
        )
    ]
    pictures = []
    for title, told in FAMILIES.items():
        tables, said = [], []
        for metric in (*PRIMARY["click"], *PRIMARY["utility"]):
            found, target = family(evidence, title, metric), metric.partition(".")[0]
            tables.append(comparisons(list(found.items()), first=f"{measure(metric)} ({target})"))
            said.append(tally(f"{measure(metric)} ({target})", list(found.values())))
            if metric == PRIMARY["click"][0]:
                rows = [(name.partition(":")[0], r, "") for name, r in found.items()]
                if svg := forest(rows, label=f"difference of {measure(metric)} (clicks)"):
                    pictures.append(Picture(svg, f"{title}: {measure(metric)}"))
        blocks += [Heading(title), Text(f"{told} {' '.join(said)}"), tables[0]]
        blocks.append(Fold(f"{title}: item level, and the true utility", tables[1:]))
        if title == "Ablations":
            whole = PAPER_TABLE_1["raddpo"]
            said = "; ".join(
                f"{row(s)} {signed(whole[8] - v[8])} (hallucination {signed(whole[0] - v[0])})"
                for s, v in PAPER_TABLE_1.items()
                if s.startswith("raddpo-")
            )
            blocks.append(Text(f"The paper, SID MRR of the whole less each ablation: {said}."))
            blocks.append(_other_targets(evidence))
        if title == "Controls" and (text := _without_negatives(evidence)):
            blocks.append(text)
    if pictures:
        blocks.append(Row(pictures))
    return Section("parts", "Ablations, ladder, controls", blocks, "simulated")


# (system, variant) of the first row and of the second
Sides = tuple[tuple[str, str], tuple[str, str]]
FAMILIES = {
    "Ablations": "What the whole is worth without a part.",
    "The ladder": (
        "One part at a time; the last row is the whole contrast against the same "
        "training without it."
    ),
    "Controls": "RDRW against what costs less, and against the truth that only a simulator has.",
    "The SFT term": "RAD-DPO keeps L_SFT; the baselines do not, unless they are given it.",
}


def own_rate(evidence: Evidence) -> str:
    """The variant of SFT continued at RAD-DPO's own learning rate, run or planned; empty where
    there is none.
    """
    return next(iter(evidence.variants("lr_new", CONTROL)), "")


@cache
def family(evidence: Evidence, title: str, metric: str) -> dict[str, Result]:
    """{name: result} of one of :data:`FAMILIES`, corrected among each other."""
    sides = _sides(evidence)[title]
    contrasts = [
        difference(a, b, metric, variant=v, b_variant=w) for (a, v), (b, w) in sides.values()
    ]
    return dict(zip(sides, compare(evidence, contrasts), strict=True))


def at_equal_rates(evidence: Evidence, metric: str) -> Result | None:
    """RAD-DPO less SFT continued at RAD-DPO's own learning rate, as the ladder has it; None where
    it is not planned.
    """
    if not (rate := own_rate(evidence)):
        return None
    return next(
        r
        for r in family(evidence, "The ladder", metric).values()
        if (r.contrast.plus[0].system, r.contrast.minus[0].variant) == ("raddpo", rate)
    )


@cache
def rows_at_equal_rates(evidence: Evidence, metric: str) -> dict[str, Result]:
    """{what: result} of RAD-DPO less SFT continued at RAD-DPO's rate: on the base's rows, on the
    most, and the change.

    Empty where SFT continued was not planned at that rate on more rows.
    """
    rate = own_rate(evidence)
    found = [
        v
        for (s, v) in evidence.plan
        if s == CONTROL and v.startswith("lists=") and v.endswith(f",{rate}")
    ]
    found += [
        c.variant
        for c in evidence.cells.values()
        if c.system == CONTROL and c.variant.endswith(f",{rate}")
    ]
    if not rate or not found:
        return {}
    more = found[0]
    lists = more.partition(",")[0]
    least, most = (
        difference("raddpo", CONTROL, metric, variant=v, b_variant=w, across=True)
        for v, w in (("", rate), (lists, more))
    )
    base = evidence.base_value("lists", "raddpo") or "base"
    asked = {
        f"{base} rows": least,
        f"{lists.partition('=')[2]} rows": most,
        "the change": Contrast((*most.plus, *least.minus), (*most.minus, *least.plus), across=True),
    }
    return dict(zip(asked, compare(evidence, list(asked.values())), strict=True))


def against_twin(evidence: Evidence, twin: str, metric: str) -> Result:
    """RAD-DPO less a baseline with its own SFT term, as the family of the SFT term has it."""
    found = family(evidence, "The SFT term", metric).values()
    return next(
        r
        for r in found
        if (r.contrast.plus[0].system, r.contrast.minus[0].system) == ("raddpo", twin)
    )


def _sides(evidence: Evidence) -> dict[str, dict[str, Sides]]:
    """{title: {name: sides}} of what is compared."""
    ablations: dict[str, Sides] = {
        f"RAD-DPO − {row(s)}": (("raddpo", ""), (s, "")) for s in ABLATIONS
    }
    rungs, steps = list(LADDER), list(STEPS)
    if rate := own_rate(evidence):
        rungs.insert(2, (CONTROL, rate))
        steps.insert(1, RATE_STEP)
    ladder: dict[str, Sides] = {}
    for (a, b), name in zip(pairwise(rungs), steps, strict=True):
        ladder[f"{_rung(*b)} − {_rung(*a)}: {name}"] = (b, a)
    if rate:
        whole, without = ("raddpo", ""), (CONTROL, rate)
        ladder[f"{_rung(*whole)} − {_rung(*without)}: the contrast at equal learning rates"] = (
            whole,
            without,
        )
    controls, twins = (
        {f"{row(a)} − {row(b)}: {name}": ((a, ""), (b, "")) for a, b, name in each}
        for each in (CONTROLS, TWINS)
    )
    return dict(zip(FAMILIES, (ablations, ladder, controls, twins), strict=True))


def _rung(system: str, variant: str) -> str:
    return row(system) + (f" ({variant.replace('=', ' ')})" if variant else "")


def _without_negatives(evidence: Evidence) -> Block | None:
    """How many lists skip-above leaves without a negative: there the contrast is silent."""
    shares = []
    for cell in evidence.runs("raddpo-skip-above").values():
        counts = cell.train.get("counts") or {}
        if counts.get("lists"):
            shares.append(float(counts.get("lists_without_negatives", 0)) / float(counts["lists"]))
    if not shares:
        return None
    mean = sum(shares) / len(shares)
    return Text(
        f"Skip-above leaves {mean:.0%} of the training lists without any negative: on those rows "
        "it is SFT alone, so part of any difference is a weaker contrast."
    )


def _other_targets(evidence: Evidence) -> Block:
    metrics = ["order.sid.mrr", "random.sid.mrr", "utility.sid.ndcg@10", "invalid.mass"]
    head = ["RAD-DPO − ablation"]
    for metric in metrics:
        head += [f"{metric.partition('.')[0]}: {measure(metric)}", "verdict: higher"]
    found = [compare(evidence, [difference("raddpo", s, m) for s in ABLATIONS]) for m in metrics]
    rows: list[list[Entry]] = []
    for i, system in enumerate(ABLATIONS):
        entries: list[Entry] = [row(system)]
        for results in found:
            entries += [effect(results[i]), verdict(results[i].word)]
        rows.append(entries)
    return Fold(
        "Ablations on the other targets and on invalid mass", [Table(head, rows, (2, 4, 6, 8))]
    )
