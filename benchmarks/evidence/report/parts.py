"""What each part of RAD-DPO does."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import CONTROL, START, compare, difference
from benchmarks.evidence.report.document import Block, Entry, Fold, Heading, Picture, Row, Section, Table, Text
from benchmarks.evidence.report.names import PAPER_TABLE_1, PRIMARY, measure, row
from benchmarks.evidence.report.pictures import forest
from benchmarks.evidence.report.show import (
    comparisons,
    effect,
    signed,
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
LADDER = ((START, ""), (CONTROL, ""), ("raddpo-contrast", ""), ("raddpo-no-rdrw", ""), ("raddpo", ""))
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
            "**Holds** means that the first row is better than the second. Holm runs inside each table and "
            "measure. The "
            "cheap denoisers (weights from the truth, skip-above, inverse propensity) run *without* RDRW, in its place."
        )
    ]
    pictures = []
    for title, told, contrasts in _families(evidence):
        tables: list[Block] = []
        names = list(contrasts)
        for metric in PRIMARY["click"]:
            sides = contrasts.values()
            results = compare(evidence, [difference(a, b, metric, variant=v, b_variant=w) for (a, v), (b, w) in sides])
            tables.append(comparisons(list(zip(names, results, strict=True)), first=measure(metric)))
            if metric == PRIMARY["click"][0]:
                rows = [(name.partition(":")[0], r, "") for name, r in zip(names, results, strict=True)]
                if svg := forest(rows, label=f"difference of {measure(metric)} (clicks)"):
                    pictures.append(Picture(svg, f"{title}: {measure(metric)}"))
        blocks += [Heading(title), Text(told), tables[0], Fold(f"{title}: {measure(PRIMARY['click'][1])}", tables[1:])]
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


Sides = tuple[tuple[str, str], tuple[str, str]]  # (system, variant) of the first row and of the second


def own_rate(evidence: Evidence) -> str:
    """The variant of SFT continued at RAD-DPO's own learning rate, run or planned; empty where there is none."""
    return next(iter(evidence.variants("lr_new", CONTROL)), "")


def _families(evidence: Evidence) -> list[tuple[str, str, dict[str, Sides]]]:
    """Title, what it asks, and {name: sides} of its comparisons."""
    ablations: dict[str, Sides] = {f"RAD-DPO − {row(s)}": (("raddpo", ""), (s, "")) for s in ABLATIONS}
    rungs, steps = list(LADDER), list(STEPS)
    if rate := own_rate(evidence):
        rungs.insert(2, (CONTROL, rate))
        steps.insert(1, RATE_STEP)
    ladder: dict[str, Sides] = {}
    for (a, b), name in zip(pairwise(rungs), steps, strict=True):
        ladder[f"{_rung(*b)} − {_rung(*a)}: {name}"] = (b, a)
    controls, twins = (
        {f"{row(a)} − {row(b)}: {name}": ((a, ""), (b, "")) for a, b, name in each} for each in (CONTROLS, TWINS)
    )
    return [
        ("Ablations", "What the whole is worth without a part.", ablations),
        ("The ladder", "One part at a time.", ladder),
        ("Controls", "RDRW against what costs less, and against the truth that only a simulator has.", controls),
        ("The SFT term", "RAD-DPO keeps L_SFT; the baselines do not, unless they are given it.", twins),
    ]


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
        f"Skip-above leaves {mean:.0%} of the training lists without any negative: on those rows it is SFT alone, so "
        "part of any difference is a weaker contrast."
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
    return Fold("Ablations on the other targets and on invalid mass", [Table(head, rows, (2, 4, 6, 8))])
