"""Tables of the lab's corners, the dials, the shipped setting, unseen queries, and the cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from experiments.raddpo.report.cells import Cell, Evidence, split_name
from experiments.raddpo.report.compare import CONTROL, START
from experiments.raddpo.report.dials import AXES, places, shared_codes, shipped_variants
from experiments.raddpo.report.families import family
from experiments.raddpo.report.names import (
    PRIMARY,
    SETS,
    measure,
    row,
)
from experiments.raddpo.report.questions import (
    BEST_CHANNEL,
    CHANNELS,
    GENERATIVE,
    LOSE,
    SYSTEM,
    WIN,
    longer_setting,
    named,
)
from experiments.raddpo.report.show import (
    CLICK_AND_UTILITY,
    DASH,
    Section,
    Table,
    about,
    base_rows,
    comparisons,
    inactive,
    level_table,
    of_seeds,
    plain_number,
    spread,
)
from experiments.raddpo.report.tables_inside import relevant_share

# ---------------------------------------------------------------------- corners and dials


def corners(evidence: Evidence) -> Section:
    section = Section(
        "Where it must win, and where it must lose",
        "The prefix lab (docs/prefix-lab.md) predicts RAD-DPO above SFT continued on true utility "
        "when no negative is relevant, and below it when half of them are, at four times the steps "
        "and three times the learning rate. On clicks it predicts nothing.",
    )
    setting = longer_setting(evidence, "lab")
    for metric in (*PRIMARY["utility"], *PRIMARY["click"]):
        words = metric.startswith("utility")
        results = family(evidence, "corners", metric)
        section.add(comparisons(results, f"Predicted: {about(metric)}", words=words))
        beside = family(evidence, "beside the corners", metric)
        section.add(comparisons(beside, f"Beside the base: {about(metric)}", words=False))
    rows = {
        row(START): (START, ""),
        row(CONTROL): (CONTROL, ""),
        f"{row(CONTROL)}, longer": (CONTROL, setting),
        f"{row(SYSTEM)}, no relevant negative": (SYSTEM, f"{WIN},{setting}"),
        f"{row(SYSTEM)}, half relevant": (SYSTEM, f"{LOSE},{setting}"),
    }
    if setting:
        section.add(level_table(evidence, rows, CLICK_AND_UTILITY, "Levels"))
    return section


DIALS = {
    "n": "Negatives per list",
    "beta": "β",
    "lists": "Rows of alignment (steps × batch)",
    "size": "Size of the model",
    "sids": "Prefix sharing (codebook sizes)",
    "state": "The state that RDRW compares",
}


def dials(evidence: Evidence) -> Section:
    section = Section(
        "Dials",
        "One setting at a time. *From one value to another* compares levels, and gains over SFT "
        "continued where the model, its SIDs or its rows differ. Holm runs inside each table; the "
        "base setting is no member of these families.",
    )
    for axis, title in DIALS.items():
        for metric in CLICK_AND_UTILITY:
            results = family(evidence, axis, metric)
            name = f"{title}, from one value to another: {about(metric)}"
            section.add(comparisons(results, name, directions=True))
        metric = PRIMARY["click"][0]
        rows = [place for system in AXES[axis] for place in places(evidence, axis, system)]
        section.add(level_table(evidence, {named(*p): p for p in rows}, CLICK_AND_UTILITY, title))
        for control in (START, CONTROL):
            results = family(evidence, f"{axis} − {control}", metric)
            section.add(comparisons(results, f"{title}: {about(metric)} less {row(control)}"))
        section.add(_ratios(evidence, title, rows))
    for metric in CLICK_AND_UTILITY:
        results = family(evidence, "rows at equal rates", metric)
        name = f"Rows, SFT continued at RAD-DPO's rate: {about(metric)}"
        section.add(comparisons(results, name, directions=True))
    for metric in PRIMARY["click"]:
        results = family(evidence, "shrinks", metric)
        section.add(comparisons(results, f"Size of the model: {about(metric)}"))
    for metric in (PRIMARY["click"][0], PRIMARY["utility"][0]):
        results = family(evidence, "sharing", metric)
        section.add(comparisons(results, f"What TLGD is worth: {about(metric)}"))
    shares = {v: shared_codes(evidence, v) for v in ("", *evidence.variants("sids", START))}
    cells = [[v or "base", plain_number(s)] for v, s in shares.items() if s is not None]
    section.add(Table(["codebooks", "pairs that share one code"], cells))
    return section


def _ratios(evidence: Evidence, title: str, rows: Sequence[tuple[str, str]]) -> Table:
    body = []
    for place in rows:
        runs = evidence.runs(*place)
        ratios = of_seeds(runs, "gradient_ratio", "train")
        if ratios:
            word = ", inactive" if inactive(ratios, place[0]) else ""
            body.append([named(*place), spread(ratios) + word, spread(relevant_share(runs))])
    return Table(["", "gradient ratio", "relevant negatives"], body, f"{title}: in training")


def shipped(evidence: Evidence) -> Section:
    variants = shipped_variants(evidence)
    runs = evidence.runs(SYSTEM, variants[SYSTEM]) if SYSTEM in variants else {}
    if not runs:
        return Section("The shipped RAD-DPO")
    settings = next(iter(runs.values())).facts["config"]["align"]
    section = Section(
        "The shipped RAD-DPO",
        f"β {settings['beta']:g}, {settings['steps']} steps of {settings['batch_size']}, a window "
        f"of {settings['rdrw_window']} and lr_new {settings['lr_new']:g}: the defaults of `align`, "
        "beside SFT continued on as many rows at the same rate. Its SIDs, SFT models and controls "
        "are its own (another machine, so other codes): levels are not to be set beside others.",
    )
    for metric in CLICK_AND_UTILITY:
        section.add(comparisons(family(evidence, "shipped", metric), about(metric)))
    for name in ("judged_test", "grounded_test"):
        results = family(evidence, "shipped", "item.ndcg@10", name)
        section.add(comparisons(results, f"Item nDCG@10, {SETS[name]}"))
    return section


# ---------------------------------------------------------------------- unseen queries, the cells


def unseen(evidence: Evidence) -> Section:
    section = Section(
        "Unseen queries",
        "None of these queries was in training. Fused: BM25 + fine-tuned dense + the generative "
        "model, weights chosen on validation queries; with weight 0 the fusion is the one without "
        "the model.",
    )
    columns = [f"item.{m}" for m in ("ndcg@10", "rprec", "recall@10", "recall@100", "mrr")]
    for name in ("judged_test", "grounded_test"):
        if name not in evidence.queries:
            continue
        title = SETS[name].capitalize()
        rows = base_rows([*GENERATIVE, *evidence.systems(kinds=("baseline", "ceiling"))])
        section.add(
            level_table(evidence, rows, [*columns, "sid.recall@8", "sid.mrr"], title, set_name=name)
        )
        fused = ("fused.item.ndcg@10", "fused.item.recall@100")
        section.add(
            level_table(evidence, base_rows(GENERATIVE), fused, f"{title}: fused", set_name=name)
        )
        section.add(_weights(evidence, name))
        for metric in ("item.ndcg@10", "item.rprec", "item.recall@100"):
            results = family(evidence, "alone", metric, name)
            section.add(comparisons(results, f"{title}: {measure(metric)}, alone"))
            if metric != "item.rprec":
                results = family(evidence, "fused", metric, name)
                section.add(comparisons(results, f"{title}: {measure(metric)}, fused"))
    return section


def _weights(evidence: Evidence, set_name: str) -> Table:
    body = []
    for system in (*(c for c in CHANNELS if "+" in c), *GENERATIVE):
        for seed, cell in evidence.runs(system).items():
            weights = ((cell.facts.get("fusion") or {}).get(set_name) or {}).get("weights")
            if weights:
                of = "BM25 / dense" if seed is None else "BM25 / dense, fine-tuned / model"
                shown = " / ".join(plain_number(float(w), 2) for w in weights)
                body.append([row(system), DASH if seed is None else str(seed), of, shown])
    title = f"{SETS[set_name].capitalize()}: weights chosen on dev, beside {row(BEST_CHANNEL)}"
    return Table(["", "seed", "of", "weights"], body, title)


def tuning(evidence: Evidence) -> Section:
    rule = evidence.registration["tuning"]
    metric = f"day7.{rule['metric']}"
    section = Section("Tuning on day 7", f"`{metric}`, seed 0; bold: the highest, which was taken.")
    runs, edges = [], []
    for system, grid in rule["grid"].items():
        own = [c for c in evidence.cells.values() if "tune" in c.groups and c.system == system]
        own = [c for c in own if metric in c.facts.get("figures", {})]
        if not own:
            continue
        values = {c.name: float(c.facts["figures"][metric]) for c in own}
        best = max(own, key=lambda c: values[c.name])
        for cell in sorted(own, key=lambda c: c.name):
            settings = ", ".join(f"{k} {cell.axes[k]:g}" for k in grid if k in cell.axes)
            shown = plain_number(values[cell.name], 4)
            runs.append([row(system), settings, f"**{shown}**" if cell is best else shown])
        where = [
            f"{k} {best.axes[k]:g}: {_edge(best.axes[k], v)}"
            for k, v in grid.items()
            if len(v) > 1 and k in best.axes
        ]
        apart = plain_number(max(values.values()) - min(values.values()), 4)
        edges.append([row(system), "; ".join(where) or "one value", apart])
    section.add(Table(["method", "settings", "day 7"], runs))
    section.add(Table(["method", "chosen", "spread of the runs"], edges, "Where the choices lie"))
    valid = []
    for system in (CONTROL, *evidence.systems(kinds=("align",))):
        points = [list(c.train.get("valid") or []) for c in evidence.runs(system).values()]
        recalls = [[float(p["recall@8"]) for p in v] for v in points if len(v) > 1]
        if recalls:
            best_is_last = sum(max(r[1:]) == r[-1] for r in recalls)
            ends = (spread([r[0] for r in recalls]), spread([max(r[1:]) for r in recalls]))
            last = spread([r[-1] for r in recalls])
            valid.append([row(system), *ends, last, f"{best_is_last} of {len(recalls)}"])
    head = ["SID R@8 on validation lists", "SFT", "best", "final", "final is best"]
    section.add(Table(head, valid, "Best and final checkpoint"))
    for metric in PRIMARY["click"]:
        results = family(evidence, "checkpoints", metric)
        section.add(comparisons(results, f"Day 8 at day 7's best checkpoint: {about(metric)}"))
    return section


def _edge(value: float, grid: Sequence[float]) -> str:
    side = "lowest" if value <= min(grid) else "highest" if value >= max(grid) else "inside"
    return f"{side} of {len(grid)}"


def listing(evidence: Evidence) -> Section:
    cells = list(evidence.cells.values())
    hours = sum(sum(cell.seconds.values()) for cell in cells) / 3600
    section = Section(
        "The cells",
        f"{len(cells)} cells count, {hours:.1f} hours of work in them; {len(evidence.void)} are "
        f"void; {len(evidence.not_run)} were planned and not run.",
    )
    grouped: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        grouped[cell.system, cell.variant].append(cell)
    body = []
    for (system, variant), own in sorted(grouped.items()):
        seeds = ", ".join(sorted(str(c.seed) for c in own if c.seed is not None))
        groups = ", ".join(sorted({group for c in own for group in c.groups}))
        commits = ", ".join(sorted({str(c.facts.get("commit", ""))[:12] for c in own}))
        seconds = f"{sum(sum(c.seconds.values()) for c in own) / len(own):,.0f}"
        name = f"`{system}@{variant}`" if variant else f"`{system}`"
        body.append([name, groups, seeds or DASH, seconds, commits, _devices(own)])
    head = ["cell", "groups", "seeds", "seconds", "commit", "device"]
    section.add(Table(head, body))
    void = [[f"`{name}`", reason] for name, reason in sorted(evidence.void.items())]
    section.add(Table(["void", "why"], void))
    missing: dict[str, list[str]] = defaultdict(list)
    for planned in evidence.not_run:
        system, variant = split_name(planned.name)
        name = f"`{system}@{variant}`" if variant else f"`{system}`"
        missing[name].append(DASH if planned.seed is None else str(planned.seed))
    body = [[name, ", ".join(seeds)] for name, seeds in missing.items()]
    section.add(Table(["planned and not run", "seeds"], body))
    return section


def _devices(cells: Sequence[Cell]) -> str:
    devices = [cell.facts.get("device") or {} for cell in cells]
    used = {str(d.get("cuda") or d.get("cpu") or d.get("used", "")) for d in devices}
    return ", ".join(sorted(used))
