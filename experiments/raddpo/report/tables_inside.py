"""Tables of RDRW on known truth, of hallucination, and of the mechanisms behind both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.raddpo.report.cells import Cell, Evidence
from experiments.raddpo.report.compare import CONTROL, START, compare, methods
from experiments.raddpo.report.contrast import LEAST_SEEDS, UNSURE, difference
from experiments.raddpo.report.families import family
from experiments.raddpo.report.names import (
    PRIMARY,
    row,
)
from experiments.raddpo.report.questions import (
    AT_A_DOSE,
    BARE,
    FULL_HEAD,
    LOSE,
    NOISED,
    SYSTEM,
    longer_setting,
    named,
)
from experiments.raddpo.report.show import (
    DASH,
    INVALID,
    Section,
    Table,
    about,
    all_words,
    comparisons,
    inactive,
    level_table,
    of_seeds,
    plain_number,
    signed,
    spread,
    verdict,
)

STATES = ("eos_out", "last_code", "item_vector")
# ---------------------------------------------------------------------- RDRW and noise

COMPETITORS = {
    "auc/reward": "the model's own log π/|y| of the negative",
    "auc/prefix": "length of the shared prefix",
    "auc/embedding": "cosine of the item embeddings",
    "auc/position": "position (shown higher)",
}
OF_A_STATE = {"weight_pseudo": "w of pseudo", "weight_true": "w of true"}


def denoising(evidence: Evidence) -> Section:
    section = Section(
        "RDRW on known truth",
        "A pseudo-negative is a shown, unclicked item that the simulator knows to be relevant. "
        "RDRW can denoise only if its similarity puts those above the true negatives: AUC above "
        ".5. Intervals run from the lowest to the highest end of the seeds' own.",
    )
    table = []
    for system in (START, SYSTEM):
        runs = evidence.runs(system)
        scores = {f"rdrw/{s}/auc": f"RDRW, `{s}`" for s in STATES} | COMPETITORS
        for name, title in scores.items():
            if of_seeds(runs, name):
                table.append([f"{row(system)}: {title}", *_auc(runs, name)])
    head = ["score of the negative", "AUC", "95 %", "above .5", "inside a list"]
    section.add(Table([*head, *OF_A_STATE.values()], table, "What knows pseudo-negatives"))
    shares = []
    for variant in ("", *evidence.variants("noise", SYSTEM)):
        if share := relevant_share(evidence.runs(SYSTEM, variant)):
            shares.append([variant.partition("=")[2] or "0", spread(share)])
    head = ["negatives replaced (nominal)", "relevant among the trained negatives"]
    section.add(Table(head, shares, "Injected noise"))
    for metric in ("click.sid.mrr", "click.sid.recall@8", "click.item.ndcg@10"):
        results = family(evidence, "noise", metric)
        run = {name: r for name, r in results.items() if r.test is not None}
        section.add(comparisons(run, f"Noise: {about(metric)}"))
        slopes = family(evidence, "noise slopes", metric)
        section.add(comparisons(slopes, f"Noise: {about(metric)}, at the most less at none"))
    setting = longer_setting(evidence, "dose")
    if setting:
        for metric in (*PRIMARY["utility"], *PRIMARY["click"]):
            results = family(evidence, "dose", metric)
            run = {name: r for name, r in results.items() if r.test is not None}
            section.add(comparisons(run, f"At the lab's setting ({setting}): {about(metric)}"))
        section.add(_dose_levels(evidence, setting))
    return section


def _auc(runs: Mapping[int | None, Cell], name: str) -> list[str]:
    low, high = of_seeds(runs, f"{name}_low"), of_seeds(runs, f"{name}_high")
    between = f"{plain_number(min(low))}–{plain_number(max(high))}" if low and high else DASH
    state = name.removesuffix("/auc") if name.startswith("rdrw/") else ""
    weights = [spread(of_seeds(runs, f"{state}/{key}")) if state else DASH for key in OF_A_STATE]
    within = spread(of_seeds(runs, f"{name}_within"))
    return [spread(of_seeds(runs, name)), between, verdict(above_half(low, high)), within, *weights]


def above_half(low: Sequence[float], high: Sequence[float]) -> str:
    """Return the verdict on an AUC above .5 from the seeds' intervals."""
    if not low or not high:
        return "not run"
    if len(low) < LEAST_SEEDS:
        return UNSURE
    return "holds" if min(low) > 0.5 else "does not hold" if max(high) < 0.5 else UNSURE


def relevant_share(runs: Mapping[int | None, Cell]) -> list[float]:
    """Return the share of relevant negatives that each seed was trained on, where a cell says."""
    shares = [(cell.facts.get("lists") or {}).get("relevant_share") for cell in runs.values()]
    return [float(share) for share in shares if share is not None]


def _dose_levels(evidence: Evidence, setting: str) -> Table | None:
    rows = {row(CONTROL): (CONTROL, setting), row(BARE): (BARE, setting)}
    for system, state in AT_A_DOSE:
        rows[named(system, state)] = (system, ",".join(filter(None, (state, setting))))
    for system in (SYSTEM, *NOISED):
        rows[f"{row(system)}, half relevant"] = (system, f"{LOSE},{setting}")
    metrics = (*PRIMARY["utility"], *PRIMARY["click"])
    return level_table(evidence, rows, metrics, "At the lab's setting: levels")


# ---------------------------------------------------------------------- hallucination, mechanisms

MEASURED = ("invalid.mass", "invalid.free@10", "invalid.free@128")


def hallucination(evidence: Evidence) -> Section:
    section = Section(
        "Hallucination",
        "Exact invalid mass is 1 − Σ π(y|x) over every SID of the index. It is measured on a few "
        "requests, the same for every seed, so its intervals are too narrow rather than too wide. "
        "The paper counts invalid ones among freely generated SIDs. Lower is better.",
    )
    cells = [cell for cell in evidence.cells.values() if not cell.variant]
    index = next((cell.facts["index"] for cell in cells if cell.facts.get("index")), None)
    if index:
        names = {"n_sids": "SIDs", "density": "density", "uniform_invalid_mass": "uniform model"}
        section.add(
            Table(["", "index"], [[t, f"{index[k]:.4g}"] for k, t in names.items() if k in index])
        )
    for metric in MEASURED:
        results = family(evidence, "order of harm", metric)
        whole = all_words(list(results.values()))
        title = f"Neighbours in the paper's order: {metric}, in whole {whole}"
        section.add(comparisons(results, title, directions=True))
    for control in (START, CONTROL):
        for metric in MEASURED:
            others = [s for s in methods(evidence) if s != control]
            tests = compare(evidence, [difference(s, control, metric) for s in others])
            results = dict(zip(map(row, others), tests, strict=True))
            section.add(comparisons(results, f"Less {row(control)}: {metric}", directions=True))
    rows = {named(s, FULL_HEAD): (s, FULL_HEAD) for s in (START, SYSTEM, "dpo")}
    section.add(level_table(evidence, rows, INVALID, "One head over all codes"))
    for metric in INVALID:
        results = family(evidence, "full head", metric)
        seeds = {seed for result in results.values() for seed in result.seeds}
        note = "**One seed**, so there is no verdict." if len(seeds) == 1 else ""
        if seeds:
            title = f"One head over all codes: {metric}"
            section.add(comparisons(results, title, directions=True, note=note))
    return section


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
    section = Section(
        "Mechanisms",
        "Means over the first seeds, which most rows have, with the least and the greatest. A run "
        "whose gradient ratio in training is under 1 % has an *inactive* contrast. *Push* is "
        "σ(−βz) under the run's own reading. *Cancelled*: the share of y_w*'s pull on its first "
        "code that negatives with the same code take back. *Oscillation*: variance over steps of "
        "log π of y_w*'s first code around its running mean. Squeezing is the change of mean "
        "log π (nats) against the SFT checkpoint on the same lists.",
    )
    every = dict.fromkeys([*methods(evidence), *evidence.systems()])
    inside, squeezed = [], []
    for system in (s for s in every if s != START):
        runs = first_seeds(evidence, system)
        cells = [spread(of_seeds(runs, name, source)) for name, source in INSIDE.values()]
        if inactive(of_seeds(runs, "gradient_ratio", "train"), system):
            cells[0] += ", inactive"
        if any(cell != DASH for cell in cells):
            inside.append([row(system), str(_probed(runs)), *cells])
        word = others_moved(runs)
        if word:
            values = [spread(of_seeds(runs, f"squeeze/{k}_change"), sign=True) for k in SQUEEZE]
            squeezed.append([row(system), str(_probed(runs)), *values, word])
    section.add(Table(["", "seeds probed", *INSIDE], inside, "Gradients"))
    head = ["", "seeds probed", *SQUEEZE.values(), "other positives"]
    section.add(Table(head, squeezed, "Squeezing"))
    apart = oscillation_apart(evidence)
    cells = [[str(seed), signed(value)] for seed, value in apart.items()]
    section.add(Table(["seed", "oscillation with TLGD less without it"], cells))
    return section


def first_seeds(evidence: Evidence, system: str) -> dict[int | None, Cell]:
    """Return the runs of the seeds that all rows of the main table are trained with."""
    count = int(evidence.registration["bed"]["seeds"]["other"])
    runs = evidence.runs(system).items()
    return {seed: cell for seed, cell in runs if seed is None or seed < count}


def _probed(runs: Mapping[int | None, Cell]) -> int:
    return sum(any(name.partition("/")[2] for name in cell.mechanism) for cell in runs.values())


def others_moved(runs: Mapping[int | None, Cell]) -> str:
    """Return whether the other positives fell or rose under a method; "" where it is unknown."""
    low, high = (of_seeds(runs, f"squeeze/others_change_{end}") for end in ("low", "high"))
    if not low or not high:
        return ""
    if len(low) < LEAST_SEEDS:
        return UNSURE
    return "fell" if max(high) < 0 else "rose" if min(low) > 0 else UNSURE


def oscillation_apart(evidence: Evidence) -> dict[int | None, float]:
    """Return {seed: RAD-DPO's oscillation less that without TLGD} of the seeds that have both."""
    with_it, without = (first_seeds(evidence, s) for s in (SYSTEM, "raddpo-no-tlgd"))
    return {
        seed: float(cell.train["oscillation"]) - float(without[seed].train["oscillation"])
        for seed, cell in with_it.items()
        if seed in without
        and cell.train.get("oscillation") is not None
        and without[seed].train.get("oscillation") is not None
    }
