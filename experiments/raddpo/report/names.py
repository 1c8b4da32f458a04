"""Names of rows and measures as the page prints them, and the paper's own figures."""

from __future__ import annotations

ROWS = {
    "sft": "SFT",
    "sft-continued": "SFT continued",
    "raddpo": "RAD-DPO (softmax)",
    "raddpo-paper": "RAD-DPO (printed)",
    "dpo": "DPO",
    "simpo": "SimPO",
    "orpo": "ORPO",
    "sdpo": "S-DPO",
    "dpo+sft": "DPO + SFT",
    "simpo+sft": "SimPO + SFT",
    "sdpo+sft": "S-DPO + SFT",
    "raddpo-no-tlgd": "w/o TLGD",
    "raddpo-no-rdrw": "w/o RDRW",
    "raddpo-no-mlsft": "w/o multi-label SFT (y_w* only)",
    "raddpo-no-mlsft-none": "w/o any SFT term",
    "raddpo-pairwise": "w/o list contrast (pairwise)",
    "raddpo-contrast": "SFT + contrast only",
    "raddpo-constant": "constant w = .75",
    "raddpo-shuffled": "RDRW's weights shuffled",
    "raddpo-truth": "w/o RDRW, weights from the truth",
    "raddpo-skip-above": "w/o RDRW, skip-above negatives",
    "raddpo-ips": "w/o RDRW, inverse propensity",
    "bm25": "BM25",
    "dense": "dense",
    "dense-tuned": "dense, fine-tuned",
    "popularity": "popularity",
    "bm25+dense": "BM25 + dense",
    "bm25+dense-tuned": "BM25 + dense, fine-tuned",
    "quantised-dense": "quantised dense",
    "topic-oracle": "topic oracle, random order",
    "oracle-sid": "oracle SID + prior order (hindsight)",
    "oracle-utility": "oracle of the true utility",
}
TARGETS = {
    "click": "clicks under the logger",
    "order": "orders",
    "random": "clicks in the randomised bucket",
    "utility": "true utility",
}
#: The two measures of each target that are compared: SID level, item level.
PRIMARY = {
    "click": ("click.sid.mrr", "click.item.ndcg@10"),
    "order": ("order.sid.mrr", "order.item.ndcg@10"),
    "random": ("random.sid.mrr", "random.item.ndcg@10"),
    "utility": ("utility.sid.ndcg@10", "utility.item.ndcg@10"),
}
SETS = {
    "day8": "day 8 (simulated)",
    "judged_test": "judged queries (REAL judgments)",
    "grounded_test": "grounded queries (simulated)",
}
SIGNS = {"+": "better", "-": "worse", "0": "too small to see"}

#: RAD-DPO, table 1 (1.7B): hallucination, item R@10/100/500/MRR, SID R@8/64/128/MRR.
PAPER_TABLE_1 = {
    "sft": (0.0575, 0.2958, 0.5433, 0.6670, 0.2415, 0.3755, 0.6139, 0.6775, 0.2859),
    "dpo": (0.0838, 0.2731, 0.5222, 0.6524, 0.2286, 0.3648, 0.6001, 0.6642, 0.2747),
    "simpo": (0.0708, 0.3015, 0.5550, 0.6747, 0.2463, 0.3839, 0.6214, 0.6824, 0.2930),
    "orpo": (0.0685, 0.3024, 0.5579, 0.6750, 0.2479, 0.3844, 0.6231, 0.6825, 0.2940),
    "raddpo": (0.0652, 0.3048, 0.5593, 0.6794, 0.2481, 0.3888, 0.6247, 0.6864, 0.2947),
    "raddpo-no-tlgd": (0.0647, 0.3025, 0.5586, 0.6783, 0.2470, 0.3872, 0.6237, 0.6864, 0.2939),
    "raddpo-no-rdrw": (0.0657, 0.3040, 0.5570, 0.6792, 0.2463, 0.3881, 0.6226, 0.6859, 0.2935),
    "raddpo-no-mlsft": (0.0654, 0.3031, 0.5572, 0.6773, 0.2455, 0.3848, 0.6221, 0.6849, 0.2928),
}
PAPER_COLUMNS = (
    "halluc.",
    "R@10",
    "R@100",
    "R@500",
    "MRR",
    "SID R@8",
    "SID R@64",
    "SID R@128",
    "SID MRR",
)


def row(system: str) -> str:
    """A system's name in a table."""
    return ROWS.get(system, system)


def measure(metric: str) -> str:
    """``click.sid.recall@8`` -> ``SID R@8``, ``item.mrr`` -> ``item MRR``."""
    parts = metric.removeprefix("fused.").split(".")
    level = next(
        (f"{name.replace('sid', 'SID')} " for name in ("sid", "item", "expected") if name in parts),
        "",
    )
    last = parts[-1].replace("recall@", "R@").replace("ndcg@", "nDCG@").replace("rprec", "R-prec")
    return level + last.replace("mrr", "MRR")
