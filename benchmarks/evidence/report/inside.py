"""RDRW on known truth, hallucination, and the mechanisms behind both."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.evidence.cell import INVALID_TOLERANCE
from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import CONTROL, START, all_of, compare, difference, levels, methods
from benchmarks.evidence.report.document import Block, Entry, Heading, Picture, Row, Section, Table, Text, Value
from benchmarks.evidence.report.dose import dose
from benchmarks.evidence.report.names import PAPER_TABLE_1, row
from benchmarks.evidence.report.noise import noise
from benchmarks.evidence.report.pictures import two_histograms
from benchmarks.evidence.report.show import DASH, comparisons, level_table, of_seeds, plain_number, spread, verdict
from benchmarks.evidence.report.summary import order
from sidar.evaluate.charts import legend

STATES = ("eos_out", "last_code", "item_vector")
COMPETITORS = {
    "auc/reward": "the model's own log π/|y| of the negative",
    "auc/prefix": "length of the shared prefix",
    "auc/embedding": "cosine of the item embeddings",
    "auc/position": "position (shown higher)",
}
OF_A_STATE = {
    "q25": "Q25",
    "q50": "Q50",
    "q75": "Q75",
    "prefix_correlation": "corr. with prefix",
    "weight_pseudo": "w of pseudo",
    "weight_true": "w of true",
}


def denoising(evidence: Evidence) -> Section:
    """Does the similarity know passed-over items, and does weighting by it pay under noise?"""
    blocks: list[Block] = [
        Text(
            "A pseudo-negative is a shown, unclicked item that the simulator knows to be relevant. RDRW can denoise "
            "only if its similarity puts those above the true negatives: **AUC** above .5. By construction a quarter "
            "of the pairs gets weight 1 and a quarter .5, whatever the noise."
        )
    ]
    rows: list[list[Entry]] = []
    for system in (START, "raddpo"):
        runs = evidence.runs(system)
        for name, title in [*((f"rdrw/{s}/auc", f"RDRW, `{s}`") for s in STATES), *COMPETITORS.items()]:
            mean = of_seeds(runs, name)
            if not mean:
                continue
            low, high = of_seeds(runs, f"{name}_low"), of_seeds(runs, f"{name}_high")
            between = f"{plain_number(min(low))}–{plain_number(max(high))}" if low and high else "–"
            state = name.removesuffix("/auc") if name.startswith("rdrw/") else ""
            within = spread(of_seeds(runs, f"{name}_within"))
            extra = [spread(of_seeds(runs, f"{state}/{key}")) if state else "–" for key in OF_A_STATE]
            rows.append([f"{row(system)}: {title}", spread(mean), between, verdict(_above(low, high)), within, *extra])
    head = ["score of the negative", "AUC", "95 %, all seeds", "above .5", "inside a list", *OF_A_STATE.values()]
    note = (
        "95 %: from the lowest to the highest end of the seeds' own intervals (clustered by query). Prefix, "
        "embedding and "
        "position need no training at all; the likelihood is the aligned model's own, and costs no second state. RDRW "
        "should beat all of them."
    )
    blocks.append(Table(head, rows, (3,), note) if rows else Text("AUCs: not run."))
    if pictures := _histograms(evidence):
        blocks.append(Row(pictures))
    blocks += [Heading("Against injected noise"), *noise(evidence)]
    blocks += [Heading("Where alignment is longer and faster"), *dose(evidence)]
    return Section("rdrw", "RDRW on known truth", blocks, "simulated")


def _above(low: list[float], high: list[float]) -> str:
    if not low or not high:
        return "not run"
    return "holds" if min(low) > 0.5 else "does not hold" if max(high) < 0.5 else "cannot tell here"


def _histograms(evidence: Evidence) -> list[Picture]:
    out = []
    for system in (START, "raddpo"):
        for cell in list(evidence.runs(system).values())[:1]:
            found = cell.facts.get("distributions") or {}
            for kind, label in (("similarity", "similarity with y_w*"), ("weight", "weight w (eq. 6)")):
                if not found.get(f"{kind}/edges"):
                    continue
                marks = list(zip(found.get("similarity/quartiles", []), ("Q25", "Q50", "Q75"), strict=False))
                kinds = [("pseudo-negatives", found[f"{kind}/pseudo"], 1), ("true negatives", found[f"{kind}/true"], 0)]
                svg = two_histograms(
                    found[f"{kind}/edges"], kinds, label=label, marks=marks if kind == "similarity" else ()
                )
                if svg:
                    caption = f"{label.capitalize()}, {row(system)}, seed {cell.seed}"
                    out.append(Picture(svg, caption, below=legend([(name, colour) for name, _, colour in kinds])))
    return out


# ---------------------------------------------------------------------- hallucination


def hallucination(evidence: Evidence) -> Section:
    """Exact invalid mass and its kinds; the paper's order; the full head."""
    metrics = ["invalid.mass", "invalid.free@10", "invalid.free@128", "invalid.not_code@10"]
    names = evidence.registration["hallucination_order"]
    results = order(evidence)
    word = all_of([r.word for r in results])
    blocks: list[Block] = [
        Text(
            "Exact invalid mass is 1 − Σ π(y|x) over every SID of the index, without a beam. Level-sliced heads "
            "cannot write a code of another level, so only the full head can show the second kind of error "
            "(**not_code**). The walk leaves out prefixes that are rarer: mass may be too large by "
            f"{INVALID_TOLERANCE:g}."
        ),
        *_regime(evidence),
        Text(
            f"The paper's order, from least to most: {' < '.join(row(s) for s in names)}. Here the whole order: "
            f"**{word}**."
        ),
    ]
    steps = [(f"{row(b)} − {row(a)}", r) for (a, b), r in zip(pairwise(names), results, strict=True)]
    blocks.append(comparisons(steps, first="exact invalid mass, neighbours in the order"))
    systems = list(dict.fromkeys([*methods(evidence), *evidence.systems()]))
    if table := level_table(evidence, systems, metrics):
        blocks += [Heading("Level head"), table]
    for control in (START, CONTROL):
        others = [s for s in methods(evidence) if s != control]
        found = compare(evidence, [difference(s, control, "invalid.mass") for s in others])
        rows = [(f"{row(s)} − {row(control)}", r) for s, r in zip(others, found, strict=True)]
        blocks.append(
            comparisons(rows, first="exact invalid mass", note="**Holds**: more invalid mass than the second row.")
        )
    blocks += [Heading("One head over all codes (`head=full`)"), *_full_head(evidence, metrics)]
    return Section("hallucination", "Hallucination", blocks, "simulated")


def _regime(evidence: Evidence) -> list[Block]:
    """How dense the index is, and how far this bed's SFT is from the paper's."""
    said = []
    index = next((c.facts["index"] for c in evidence.cells.values() if not c.variant and c.facts.get("index")), None)
    if index:
        said.append(
            f"The index has {int(index['n_sids']):,} SIDs, a density of {float(index['density']):.2g} among "
            "all that the "
            f"codebooks can write; a uniform model would put {float(index['uniform_invalid_mass']):.4f} of its mass on "
            "invalid ones."
        )
    if own := levels(evidence, START, ["invalid.mass"]).get("invalid.mass"):
        said.append(
            f"SFT's mass is {plain_number(own.mean, 4)} here and its hallucination rate "
            f"{plain_number(PAPER_TABLE_1[START][0], 4)} in the "
            "paper: **another regime** (a small model, little training, an exact mass and not a rate of "
            "beams), so only "
            "the order and the signs can be compared."
        )
    return [Text(" ".join(said))] if said else []


def _full_head(evidence: Evidence, metrics: list[str]) -> list[Block]:
    """Levels and contrasts of the cells whose head can write a code of any level."""
    variant = "head=full"
    full = [s for s in (START, "raddpo", "dpo") if evidence.runs(s, variant)]
    table = level_table(evidence, full, metrics, variants=dict.fromkeys(full, variant)) if full else None
    if table is None:
        return [Text("Not run.")]
    blocks: list[Block] = [table]
    pairs = (("raddpo", START), ("dpo", START), ("dpo", "raddpo"))
    for metric in ("invalid.mass", "invalid.not_code@10"):
        found = compare(evidence, [difference(a, b, metric, variant=variant) for a, b in pairs])
        seeds = {seed for r in found for seed in r.seeds}
        note = "**One seed**, so there is no verdict." if len(seeds) == 1 else ""
        rows = [(f"{row(a)} − {row(b)}", r) for (a, b), r in zip(pairs, found, strict=True)]
        first = f"{'exact invalid mass' if metric.endswith('mass') else 'not a code, free beam of 10'}, full head"
        blocks.append(comparisons(rows, first=first, note=f"**Holds**: more of it than the second row. {note}".strip()))
    return blocks


# ---------------------------------------------------------------------- mechanisms

INSIDE = {
    "gradient ratio in training": ("gradient_ratio", "train"),
    "‖∇L_PL‖ / ‖∇L_SFT‖": ("gradient/ratio", "mechanism"),
    "cosine of the two": ("gradient/cosine", "mechanism"),
    "push on y_w*": ("contrast/push", "mechanism"),
    "saturated lists": ("contrast/push_saturated", "mechanism"),
    "cancelled without TLGD": ("prefix/cancelled", "mechanism"),
    "prefix cosine": ("prefix/cos_level1", "mechanism"),
    "with TLGD": ("prefix/cos_level1_tlgd", "mechanism"),
    "oscillation": ("oscillation", "train"),
}
SQUEEZE = {
    "star": "y_w*",
    "others": "other positives",
    "negatives": "true negatives",
    "pseudo": "pseudo-negatives",
    "unrelated": "unrelated",
    "top": "largest p, first code",
    "entropy": "entropy, first code",
}
INACTIVE = 0.01


def mechanisms(evidence: Evidence) -> Section:
    """Why: gradients, saturation, squeezing, oscillation."""
    systems = [s for s in dict.fromkeys([*methods(evidence), *evidence.systems()]) if s != START]
    blocks: list[Block] = [
        Text(
            "Means over seeds with the least and the greatest. A run whose gradient ratio is under 1 % has an "
            "**inactive** contrast. Push is σ(−βz) under the run's own reading; a list under .05 counts as "
            "saturated. The same questions with thousands of seeds and no language model: [the prefix "
            "lab](prefix-lab.md)."
        )
    ]
    rows: list[list[Entry]] = []
    dead = []
    for system in systems:
        runs = evidence.runs(system)
        entries = [spread(of_seeds(runs, name, source)) for name, source in INSIDE.values()]
        if runs and any(e.text != DASH for e in entries):
            rows.append([row(system), *entries])
        ratios = of_seeds(runs, "gradient_ratio", "train")
        if ratios and max(ratios) < INACTIVE and system != CONTROL:
            dead.append(row(system))
    there = [0, *(i for i in range(1, len(INSIDE) + 1) if any(r[i] != Value(DASH) for r in rows))]
    head = ["", *INSIDE]
    table = Table([head[i] for i in there], [[r[i] for i in there] for r in rows])
    blocks.append(table if rows else Text("Not run."))
    if dead:
        blocks.append(Text(f"**The contrast is inactive** in: {', '.join(dead)}."))
    blocks += [
        Heading("Squeezing"),
        Text(
            "Change of mean log π (nats) against the SFT checkpoint on the same lists. The claim to test: RAD-DPO "
            "does not push the **other positives** down, DPO does. The verdict is on them: **fell** where every "
            "seed's interval lies below 0."
        ),
    ]
    rows = []
    for system in systems:
        runs = evidence.runs(system)
        low, high = of_seeds(runs, "squeeze/others_change_low"), of_seeds(runs, "squeeze/others_change_high")
        if low and high:
            word = "fell" if max(high) < 0 else "rose" if min(low) > 0 else "cannot tell here"
            cells = [spread(of_seeds(runs, f"squeeze/{k}_change"), sign=True) for k in SQUEEZE]
            rows.append([row(system), *cells, verdict(word)])
    head = ["", *SQUEEZE.values(), "other positives"]
    blocks.append(Table(head, rows, (len(head) - 1,)) if rows else Text("Not run."))
    return Section("mechanisms", "Mechanisms", blocks, "simulated")
