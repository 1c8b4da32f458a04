"""The lab's tables, for the terminal and for docs/prefix-lab.md."""

from __future__ import annotations

import re

from experiments.lab import mechanisms, predictions
from experiments.lab.figures import Figures

Table = tuple[str, list[str], list[list[str]]]


def squeezing(f: Figures) -> Table:
    keys = ("star", "others", "negatives", "unseen", "argmax", "ndcg@10", "click.mrr")
    header = [
        "objective",
        "y_w*",
        "other positives",
        "negatives",
        "never clicked",
        "argmax mass",
        "nDCG@10",
        "click MRR",
    ]
    rows = [
        [name, *(f.text(f"A/{name}/change/{key}", plus=True) for key in keys)]
        for name in mechanisms.METHODS
    ]
    return "A. Change after 100 steps (log π; last three columns: mass and quality)", header, rows


def coefficients(f: Figures) -> Table:
    rows = []
    for varied in ("equal", "varied"):
        for tlgd in ("off", "on"):
            at = f"B/coefficient/{varied}/tlgd={tlgd}"
            error = "< 1e-9" if f[f"{at}/error_1e9"] < 1 else f"{f[f'{at}/error_1e9']:.0f}e-9"
            rows.append(
                [varied, tlgd, f"{f[f'{at}/mean']:.3f}", f"{f[f'{at}/negative']:.1%}", error]
            )
    header = [
        "lengths",
        "TLGD",
        "mean net coefficient",
        "lists that push the prefix down",
        "distance to the formula",
    ]
    return "B1. Coefficient of a shared first code, in units of the push on y_w*", header, rows


def truncation(f: Figures) -> Table:
    rows = []
    for share in mechanisms.SHARES:
        at = f"B/share={share}"
        ratio = f[f"{at}/on/oscillation"] / f[f"{at}/off/oscillation"]
        named = [
            f.text(f"{at}/on-off/{key}", 4, True)
            for key in ("ndcg@10", "recall@8", "invalid.mass", "prefix.mass")
        ]
        rows.append([f"{share:.0%}", *named, f"{ratio:.2f}"])
    header = [
        "sharing",
        "nDCG@10",
        "recall@8",
        "invalid mass",
        "valid-prefix mass",
        "oscillation, on / off",
    ]
    return "B2. TLGD on − off", header, rows


def readings(f: Figures) -> Table:
    rows = []
    for n in mechanisms.NS:
        for beta in mechanisms.BETAS:
            row = [str(n), f"{beta:g}"]
            for name in mechanisms.FORMS:
                at = f"C/{name}/n={n}/beta={beta:g}"
                pulls = " / ".join(
                    f"{f[f'{at}/start/{key}']:.3f}" for key in ("push", "hardest", "easiest")
                )
                ratio = f"{f[f'{at}/start/ratio']:.1%} → {f[f'{at}/end/ratio']:.1%}"
                row += [pulls, ratio, f.text(f"{at}-sft/best.mrr", plus=True)]
            rows.append(row)
    each = ("push / hardest / easiest", "contrast / SFT", "best MRR − SFT-continued")
    header = [
        "n",
        "β",
        *(f"softmax: {text}" for text in each),
        *(f"printed: {text}" for text in each),
    ]
    return "C. Two readings", header, rows


def rdrw(f: Figures) -> Table:
    rows = []
    for noise in predictions.NOISES:
        for auc in predictions.AUCS if noise else predictions.AUCS[:1]:
            at = f"D/noise={noise}/auc={auc:g}"
            against = [
                f.text(f"{at}-{label}/ndcg@10", 4, True) for label in ("sft", *predictions.CONTROLS)
            ]
            rows.append([f"{noise:.0%}", f"{auc:g}" if noise else "any", *against])
        for label in predictions.CONTROLS:
            text = f.text(f"D/noise={noise}/{label}-sft/ndcg@10", 4, True)
            rows.append([f"{noise:.0%}", label, text, *[""] * len(predictions.CONTROLS)])
    header = ["noise", "AUC", "− SFT-continued", *(f"− {label}" for label in predictions.CONTROLS)]
    return "D1. nDCG@10 of RAD-DPO with RDRW", header, rows


def thresholds(f: Figures) -> Table:
    def auc(name: str) -> str:
        return "never" if f[name] > 1 else f"{f[name]:.2f}"

    rows = []
    for noise in predictions.NOISES[1:]:
        for label in predictions.CONTROLS:
            names = [
                f"D/noise={noise}/{what}/{label}" for what in ("threshold", "proved", "visible")
            ]
            rows.append([f"{noise:.0%}", label, *map(auc, names)])
    header = [
        "noise",
        "against",
        "gain above 0 from AUC",
        "interval above 0 from AUC",
        "gain above .005 from AUC",
    ]
    return "D2. The AUC that RDRW needs", header, rows


def weights(f: Figures) -> Table:
    rows = [
        [f"{auc:g}", *(f.text(f"D/auc={auc:g}/weight/{k}") for k in ("pseudo", "true"))]
        for auc in predictions.AUCS
    ]
    return "D3. Mean weight", ["AUC", "pseudo-negatives", "true negatives"], rows


def effects(f: Figures) -> Table:
    rows = []
    for dial, values in predictions.MAP.items():
        for value in values:
            at = f"E/map/mean/{dial}={value:g}"
            rows.append(
                [
                    f"{dial} {value:g}",
                    *(f.text(f"{at}/{key}", 4, True) for key in predictions.MEASURES),
                ]
            )
    return (
        "E1. RAD-DPO − SFT-continued, mean over the map",
        ["dial", "nDCG@10", "best MRR", "click MRR"],
        rows,
    )


def dials(f: Figures) -> Table:
    names = [
        (f"{dial} {v:g}", f"E/{dial}={v:g}")
        for dial, values in predictions.LINES.items()
        for v in values
    ]
    names += [
        (f"plain gradient steps, sft_steps {v:g}", f"E/plain/sft_steps={v:g}")
        for v in (10, 40, 160)
    ]
    names += [(f"chosen: {label}", f"E/chosen/{label}") for label in ("best", "worst", "click")]
    rows = [
        [text, *(f.text(f"{at}/{key}", 4, True) for key in predictions.MEASURES)]
        for text, at in names
    ]
    return (
        "E2. RAD-DPO − SFT-continued, one dial at a time",
        ["dial", "nDCG@10", "best MRR", "click MRR"],
        rows,
    )


TABLES = {
    "A": squeezing,
    "B1": coefficients,
    "B2": truncation,
    "C": readings,
    "D1": rdrw,
    "D2": thresholds,
    "D3": weights,
    "E1": effects,
    "E2": dials,
}


def markdown(table: Table) -> str:
    """The table as Markdown."""
    _, header, rows = table
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


NUMBER = re.compile(r"([+−]?)\d*(?:\.(\d+))?( ?%)?<!-- (\S+) -->")


def number(match: re.Match[str], figures: Figures) -> str:
    """One figure of the prose with the sign, decimals and unit that its author gave it."""
    sign, decimals, unit, name = match[1], match[2] or "", match[3] or "", match[4]
    value = figures[name] * (100 if unit else 1)
    text = f"{value:{'+' if sign else ''}.{len(decimals)}f}".replace("-", "−")
    bare = text.lstrip("+−")
    if bare.startswith("0."):
        text = text.replace("0.", ".", 1)
    return f"{text}{unit}<!-- {name} -->"


def fill(page: str, figures: Figures) -> str:
    """``page`` with each block ``<!-- table X -->…<!-- end -->`` and each ``number<!-- name -->``
    of its prose anew.
    """

    def block(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{markdown(TABLES[match[1]](figures))}\n<!-- end -->"

    page = re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", block, page, flags=re.DOTALL)
    return NUMBER.sub(lambda match: number(match, figures) if "/" in match[4] else match[0], page)
