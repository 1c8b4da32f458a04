"""RDRW on known truth, hallucination, and the mechanisms behind both."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.evidence.cell import INVALID_TOLERANCE
from benchmarks.evidence.report.cells import Cell, Evidence
from benchmarks.evidence.report.compare import (
    CONTROL,
    LEAST_SEEDS,
    START,
    UNSURE,
    all_of,
    compare,
    difference,
    levels,
    methods,
)
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
    Value,
)
from benchmarks.evidence.report.dose import dose
from benchmarks.evidence.report.names import PAPER_TABLE_1, measure, row
from benchmarks.evidence.report.noise import noise
from benchmarks.evidence.report.pictures import legend, two_histograms
from benchmarks.evidence.report.show import (
    DASH,
    comparisons,
    inactive,
    level_table,
    of_seeds,
    plain_number,
    signed,
    spread,
    tally,
    verdict,
)
from benchmarks.evidence.report.summary import order

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
            "A pseudo-negative is a shown, unclicked item that the simulator knows to be relevant. "
            "RDRW can denoise only if its similarity puts those above the true negatives: **AUC** "
            "above .5. By construction a quarter of the pairs gets weight 1 and a quarter .5, "
            "whatever the noise."
        )
    ]
    rows: list[list[Entry]] = []
    for system in (START, "raddpo"):
        runs = evidence.runs(system)
        for name, title in [
            *((f"rdrw/{s}/auc", f"RDRW, `{s}`") for s in STATES),
            *COMPETITORS.items(),
        ]:
            mean = of_seeds(runs, name)
            if not mean:
                continue
            low, high = of_seeds(runs, f"{name}_low"), of_seeds(runs, f"{name}_high")
            between = f"{plain_number(min(low))}–{plain_number(max(high))}" if low and high else "–"
            state = name.removesuffix("/auc") if name.startswith("rdrw/") else ""
            within = spread(of_seeds(runs, f"{name}_within"))
            extra = [
                spread(of_seeds(runs, f"{state}/{key}")) if state else "–" for key in OF_A_STATE
            ]
            rows.append(
                [
                    f"{row(system)}: {title}",
                    spread(mean),
                    between,
                    verdict(_above(low, high)),
                    within,
                    *extra,
                ]
            )
    head = [
        "score of the negative",
        "AUC",
        "95 %, all seeds",
        "above .5",
        "inside a list",
        *OF_A_STATE.values(),
    ]
    note = (
        "95 %: from the lowest to the highest end of the seeds' own intervals (clustered by "
        "query). Prefix, embedding and position need no training at all; the likelihood is the "
        "aligned model's own, and costs no second state. RDRW should beat all of them."
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
    if len(low) < LEAST_SEEDS:
        return UNSURE
    return "holds" if min(low) > 0.5 else "does not hold" if max(high) < 0.5 else UNSURE


def _histograms(evidence: Evidence) -> list[Picture]:
    out = []
    for system in (START, "raddpo"):
        for cell in list(evidence.runs(system).values())[:1]:
            found = cell.facts.get("distributions") or {}
            for kind, label in (
                ("similarity", "similarity with y_w*"),
                ("weight", "weight w (eq. 6)"),
            ):
                if not found.get(f"{kind}/edges"):
                    continue
                marks = list(
                    zip(found.get("similarity/quartiles", []), ("Q25", "Q50", "Q75"), strict=False)
                )
                kinds = [
                    ("pseudo-negatives", found[f"{kind}/pseudo"], 1),
                    ("true negatives", found[f"{kind}/true"], 0),
                ]
                svg = two_histograms(
                    found[f"{kind}/edges"],
                    kinds,
                    label=label,
                    marks=marks if kind == "similarity" else (),
                )
                if svg:
                    caption = f"{label.capitalize()}, {row(system)}, seed {cell.seed}"
                    out.append(
                        Picture(
                            svg,
                            caption,
                            below=legend([(name, colour) for name, _, colour in kinds]),
                        )
                    )
    return out


# ---------------------------------------------------------------------- hallucination


FREE = "invalid.free@128"
MEASURED = {
    "invalid.mass": "exact invalid mass",
    "invalid.free@10": "invalid share, free beam of 10",
    FREE: "invalid share, free beam of 128",
}


def hallucination(evidence: Evidence) -> Section:
    """Exact invalid mass and its kinds; the paper's order; the full head."""
    metrics = ["invalid.mass", "invalid.free@10", "invalid.free@128", "invalid.not_code@10"]
    names = evidence.registration["hallucination_order"]
    results = order(evidence)
    word = all_of([r.word for r in results])
    blocks: list[Block] = [
        Text(
            "Exact invalid mass is 1 − Σ π(y|x) over every SID of the index, without a beam. "
            "Level-sliced heads cannot write a code of another level, so only the full head can "
            "show the second kind of error (**not_code**). The walk leaves out prefixes that are "
            f"rarer: mass may be too large by {INVALID_TOLERANCE:g}. Mass is measured on few "
            "requests, the same for every seed: the column of levels says how many. Intervals and "
            "detectable effects of so few are too narrow rather than too wide. **free@k**: the "
            "share of invalid ones among the first k of a beam without a trie."
        ),
        *_regime(evidence),
        Text(
            f"The paper's order, from least to most: {' < '.join(row(s) for s in names)}. Here the "
            f"whole order: **{word}**."
        ),
    ]
    steps = [
        (f"{row(b)} − {row(a)}", r) for (a, b), r in zip(pairwise(names), results, strict=True)
    ]
    blocks.append(comparisons(steps, first="exact invalid mass, neighbours in the order"))
    systems = list(dict.fromkeys([*methods(evidence), *evidence.systems()]))
    counted = levels(evidence, START, metrics)
    requests = "; ".join(f"{measure(m)}: {v.n // max(v.seeds, 1)}" for m, v in counted.items())
    note = f"Lower is better. Requests of each seed: {requests}." if requests else ""
    if table := level_table(evidence, systems, metrics, note=note):
        blocks += [Heading("Level head"), table]
    for control in (START, CONTROL):
        others = [s for s in methods(evidence) if s != control]
        tables, said = [], []
        for metric, name in MEASURED.items():
            found = compare(evidence, [difference(s, control, metric) for s in others])
            rows = [(f"{row(s)} − {row(control)}", r) for s, r in zip(others, found, strict=True)]
            tables.append(comparisons(rows, first=f"{name} (lower is better)", directions=True))
            said.append(tally(name, found))
        blocks += [
            Text(f"Against {row(control)}: {' '.join(said)}"),
            tables[0],
            Fold(f"Against {row(control)}: the same on free beams", tables[1:]),
        ]
    steps_of_free = compare(evidence, [difference(b, a, FREE) for a, b in pairwise(names)])
    some = zip(pairwise(names), steps_of_free, strict=True)
    blocks += [
        Text(
            "The paper counts invalid ones among freely generated SIDs, so here is the order "
            "again on the free beam of 128. The two measures may disagree: mass also counts the "
            "many invalid SIDs that no beam reaches. The whole order on the free beam: "
            f"**{all_of([r.word for r in steps_of_free])}**."
        ),
        comparisons(
            [(f"{row(b)} − {row(a)}", r) for (a, b), r in some],
            first=f"{MEASURED[FREE]}, neighbours in the order",
        ),
    ]
    blocks += [Heading("One head over all codes (`head=full`)"), *_full_head(evidence, metrics)]
    return Section("hallucination", "Hallucination", blocks, "simulated")


def _regime(evidence: Evidence) -> list[Block]:
    """How dense the index is, and how far this bed's SFT is from the paper's."""
    said = []
    index = next(
        (
            c.facts["index"]
            for c in evidence.cells.values()
            if not c.variant and c.facts.get("index")
        ),
        None,
    )
    if index:
        said.append(
            f"The index has {int(index['n_sids']):,} SIDs, a density of "
            f"{float(index['density']):.2g} among all that the codebooks can write; a uniform "
            f"model would put {float(index['uniform_invalid_mass']):.4f} of its mass on invalid "
            "ones."
        )
    if own := levels(evidence, START, ["invalid.mass"]).get("invalid.mass"):
        said.append(
            f"SFT's mass is {plain_number(own.mean, 4)} here and its hallucination rate "
            f"{plain_number(PAPER_TABLE_1[START][0], 4)} in the paper: **another regime** (a small "
            "model, little training, an exact mass and not a rate of beams), so only the order "
            "and the signs can be compared."
        )
    return [Text(" ".join(said))] if said else []


def _full_head(evidence: Evidence, metrics: list[str]) -> list[Block]:
    """Levels and contrasts of the cells whose head can write a code of any level."""
    variant = "head=full"
    full = [s for s in (START, "raddpo", "dpo") if evidence.runs(s, variant)]
    table = (
        level_table(evidence, full, metrics, variants=dict.fromkeys(full, variant))
        if full
        else None
    )
    if table is None:
        return [Text("Not run.")]
    blocks: list[Block] = [table]
    pairs = (("raddpo", START), ("dpo", START), ("dpo", "raddpo"))
    for metric, name in (MEASURED | {"invalid.not_code@10": "not a code, free beam of 10"}).items():
        found = compare(evidence, [difference(a, b, metric, variant=variant) for a, b in pairs])
        seeds = {seed for r in found for seed in r.seeds}
        note = "**One seed**, so there is no verdict." if len(seeds) == 1 else ""
        rows = [(f"{row(a)} − {row(b)}", r) for (a, b), r in zip(pairs, found, strict=True)]
        blocks.append(
            comparisons(
                rows, first=f"{name}, full head (lower is better)", directions=True, note=note
            )
        )
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


def mechanisms(evidence: Evidence) -> Section:
    """Why: gradients, saturation, squeezing, oscillation."""
    systems = [s for s in dict.fromkeys([*methods(evidence), *evidence.systems()]) if s != START]
    blocks: list[Block] = [
        Text(
            "Means over seeds with the least and the greatest, of the first "
            f"{evidence.registration['bed']['seeds']['other']} seeds, which most rows have; rows "
            "that were probed once say so, and one seed is not to be set beside a mean of three. "
            "The ratio *in training* is of gradients of the log-probs, over all steps; ‖∇L_PL‖ / "
            "‖∇L_SFT‖ is over all parameters, of the trained model on the probed lists. A run "
            "whose ratio in training is under 1 % has an **inactive** contrast. Push is σ(−βz) "
            "under the run's own reading; a list under .05 counts as saturated. *Cancelled "
            "without TLGD*: the share of y_w*'s pull on its first code that negatives with the "
            "same code take back. *Prefix cosine*: of the gradients of y_w*'s part and the "
            "negatives' part, on the first level's head and embeddings. *Oscillation*: variance "
            "over steps of log π of y_w*'s first code around its running mean; batches are those "
            "of the seed, so rows are compared seed by seed. The same questions with thousands of "
            "seeds and no language model: [the prefix lab](prefix-lab.md)."
        )
    ]
    rows: list[list[Entry]] = []
    dead = []
    for system in systems:
        runs = _first_seeds(evidence, system)
        entries = [spread(of_seeds(runs, name, source)) for name, source in INSIDE.values()]
        if runs and any(e.text != DASH for e in entries):
            rows.append([row(system), str(_probed(runs)), *entries])
        if inactive(of_seeds(runs, "gradient_ratio", "train"), system):
            dead.append(row(system))
    there = [
        0,
        1,
        *(i for i in range(2, len(INSIDE) + 2) if any(r[i] != Value(DASH) for r in rows)),
    ]
    head = ["", "seeds probed", *INSIDE]
    table = Table([head[i] for i in there], [[r[i] for i in there] for r in rows])
    blocks.append(table if rows else Text("Not run."))
    if dead:
        blocks.append(Text(f"**The contrast is inactive** in: {', '.join(dead)}."))
    if said := _oscillations(evidence):
        blocks.append(said)
    blocks += [
        Heading("Squeezing"),
        Text(
            "Change of mean log π (nats) against the SFT checkpoint on the same lists. The claim "
            "to test: RAD-DPO does not push the **other positives** down, DPO does (T6). In "
            "brackets the least and the greatest seed, no interval. The verdict is on the other "
            "positives: **fell** where every seed's interval (clustered by query) lies below 0, "
            "and never with fewer than three seeds."
        ),
    ]
    rows, words = [], {}
    for system in systems:
        runs = _first_seeds(evidence, system)
        low, high = (
            of_seeds(runs, "squeeze/others_change_low"),
            of_seeds(runs, "squeeze/others_change_high"),
        )
        if low and high:
            word = "fell" if max(high) < 0 else "rose" if min(low) > 0 else UNSURE
            words[system] = word if len(low) >= LEAST_SEEDS else UNSURE
            cells = [spread(of_seeds(runs, f"squeeze/{k}_change"), sign=True) for k in SQUEEZE]
            between = f"{signed(min(low), 3)} … {signed(max(high), 3)}"
            rows.append([row(system), str(len(low)), *cells, between, verdict(words[system])])
    head = [
        "",
        "seeds probed",
        *SQUEEZE.values(),
        "other positives: 95 %, all seeds",
        "other positives",
    ]
    blocks.append(Table(head, rows, (len(head) - 1,)) if rows else Text("Not run."))
    if {"raddpo", "dpo"} <= words.keys():
        said = "; ".join(f"of {row(s)} they {_past(words[s])}" for s in ("raddpo", "dpo"))
        blocks.append(Text(f"**T6, the other positives**: {said}."))
    return Section("mechanisms", "Mechanisms", blocks, "simulated")


def _past(word: str) -> str:
    return word if word in ("fell", "rose") else "did not move as far as could be told"


def _first_seeds(evidence: Evidence, system: str) -> dict[int | None, Cell]:
    """The runs of the seeds that all rows of the main table are trained with."""
    count = int(evidence.registration["bed"]["seeds"]["other"])
    return {
        seed: cell for seed, cell in evidence.runs(system).items() if seed is None or seed < count
    }


def _probed(runs: dict[int | None, Cell]) -> int:
    """How many of the runs have the figures of the probe."""
    return max(
        len(of_seeds(runs, name, source))
        for name, source in INSIDE.values()
        if source == "mechanism"
    )


def _oscillations(evidence: Evidence) -> Text | None:
    """T11: RAD-DPO's oscillation less that without TLGD, seed by seed."""
    sides = [_first_seeds(evidence, s) for s in ("raddpo", "raddpo-no-tlgd")]
    seeds = [
        s
        for s in sides[0]
        if s in sides[1] and all(side[s].train.get("oscillation") is not None for side in sides)
    ]
    if not seeds:
        return None
    apart = [
        float(sides[0][s].train["oscillation"]) - float(sides[1][s].train["oscillation"])
        for s in seeds
    ]
    same = len(seeds) >= LEAST_SEEDS and len({value > 0 for value in apart}) == 1
    word = (
        ("lower" if apart[0] < 0 else "higher") + " in every seed"
        if same
        else "the seeds do not agree"
    )
    shown = ", ".join(signed(value) for value in apart)
    return Text(f"**T11, oscillation with TLGD less without it**, seed by seed: {shown} ({word}).")
