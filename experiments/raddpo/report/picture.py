"""The one picture of docs/evidence.md: what RAD-DPO is worth against each control."""

from __future__ import annotations

from pathlib import Path

from experiments.raddpo.report.cells import Evidence, split_name
from experiments.raddpo.report.compare import compare
from experiments.raddpo.report.contrast import difference
from sidar.pages import Interval, Picture, intervals

NAME = "evidence-effects"
#: Name, row and control; each is drawn on next-day clicks, and below on true utility.
ROWS = (
    ("SFT continued (registered)", "raddpo", "sft-continued"),
    ("SFT continued, same rate", "raddpo", "sft-continued@lr_new=3e-05"),
    (
        "… on four times the rows",
        "raddpo@lists=7680",
        "sft-continued@lists=7680,lr_new=3e-05",
    ),
    (
        "as shipped, SFT continued",
        "raddpo@bed=shipped,beta=0.5,lists=7680,window=4096",
        "sft-continued@bed=shipped,lists=7680,lr_new=3e-05",
    ),
    ("DPO + SFT", "raddpo", "dpo+sft"),
    ("the printed reading", "raddpo", "raddpo-paper"),
    ("without RDRW", "raddpo", "raddpo-no-rdrw"),
    ("without TLGD", "raddpo", "raddpo-no-tlgd"),
)
TARGETS = {"clicks": "click.item.ndcg@10", "true utility": "utility.item.ndcg@10"}


def picture(evidence: Evidence) -> Picture:
    """Return paired differences of item nDCG@10 with 95 % intervals; colours are the targets."""
    rows = []
    for name, a, b in ROWS:
        (system, variant), (other, b_variant) = split_name(a), split_name(b)
        for colour, (target, metric) in enumerate(TARGETS.items()):
            contrast = difference(
                system, other, metric, variant=variant, b_variant=b_variant, across=True
            )
            (result,) = compare(evidence, [contrast])
            if result.test is not None:
                t = result.test
                label = f"{name}: clicks" if colour == 0 else target
                rows.append(Interval(label, t.effect, t.low, t.high, colour))
    alt = "RAD-DPO's item nDCG@10 less that of its controls, with 95 % intervals"
    return intervals(NAME, alt, rows, label="RAD-DPO less the control, item nDCG@10")


def draw(evidence: Evidence, folder: Path) -> None:
    """Write the picture into ``folder``."""
    drawn = picture(evidence)
    (folder / f"{NAME}.svg").write_text(drawn.standalone(), encoding="utf-8")
