"""Section 4: what each part of RAD-DPO does; section 8: the sweeps."""

from __future__ import annotations

from itertools import pairwise

from benchmarks.evidence.report.cells import Evidence, split_name
from benchmarks.evidence.report.compare import compare, difference, levels
from benchmarks.evidence.report.document import Block, Entry, Fold, Heading, Picture, Row, Section, Table, Text
from benchmarks.evidence.report.headline import CONTROL, START
from benchmarks.evidence.report.names import PAPER_TABLE_1, PRIMARY, measure, row
from benchmarks.evidence.report.pictures import Band, bands, forest, keys
from benchmarks.evidence.report.show import (
    DASH,
    comparisons,
    effect,
    level,
    of_seeds,
    plain_number,
    signed,
    spread,
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
LADDER = (START, CONTROL, "raddpo-contrast", "raddpo-no-rdrw", "raddpo")
STEPS = ("more steps on the lists", "+ contrast", "+ TLGD", "+ RDRW")
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
        Text("**Holds** means that the first row is better than the second. Holm runs inside each table and measure.")
    ]
    pictures = []
    for title, told, triples in _families():
        tables: list[Block] = []
        for metric in PRIMARY["click"]:
            results = compare(evidence, [difference(a, b, metric) for a, b, _ in triples])
            names = [name for _, _, name in triples]
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
    if pictures:
        blocks.append(Row(pictures))
    return Section("parts", "Ablations, ladder, controls", blocks, "simulated")


def _families() -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """Title, what it asks, and (a, b, name) of each comparison."""
    ablations = [("raddpo", s, f"RAD-DPO − {row(s)}") for s in ABLATIONS]
    steps = zip(pairwise(LADDER), STEPS, strict=True)
    ladder = [(b, a, f"{row(b)} − {row(a)}: {name}") for (a, b), name in steps]
    controls, twins = ([(a, b, f"{row(a)} − {row(b)}: {name}") for a, b, name in each] for each in (CONTROLS, TWINS))
    return [
        ("Ablations", "What the whole is worth without a part.", ablations),
        ("The ladder", "One part at a time.", ladder),
        ("Controls", "RDRW against what costs less, and against the truth that only a simulator has.", controls),
        ("The SFT term", "RAD-DPO keeps L_SFT; the baselines do not, unless they are given it.", twins),
    ]


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


# ---------------------------------------------------------------------- 8

AXES = {
    "n": ("Negatives per list", ("raddpo", "raddpo-paper", "simpo", "sdpo"), "at most this many negatives"),
    "beta": ("β", ("raddpo", "raddpo-paper"), "β of the contrast"),
    "lists": ("Number of lists", ("raddpo", "dpo", CONTROL), "preference lists seen in alignment"),
    "size": ("Size of the model", ("raddpo", "dpo", CONTROL), "layers × width"),
    "sids": ("Prefix sharing", ("raddpo", "raddpo-no-tlgd", CONTROL), "codebook sizes"),
    "state": ("The state that RDRW compares", ("raddpo",), "rdrw_state"),
}
#: Axes that SFT-continued does not know: its base cell is the control at every value.
OWN_AXES = ("beta", "state")


def sweeps(evidence: Evidence) -> Section:
    """One table and picture per axis; what was planned and not run is said so."""
    metric = PRIMARY["click"][0]
    blocks: list[Block] = [
        Text(
            f"{measure(metric)} on day-8 clicks. Against SFT: the very checkpoint that the run started from. Against "
            "SFT continued: at the same setting, where such a cell exists. Holm runs inside each table."
        )
    ]
    pictures = []
    for axis, (title, systems, label) in AXES.items():
        found = _axis(evidence, axis, systems, metric)
        if not found:
            blocks += [Heading(title), Text("Not run.")]
            continue
        table, lines, ticks = found
        blocks += [Heading(title), table]
        if axis == "sids" and (shares := _sharing(evidence)):
            blocks.append(shares)
        if len(ticks) > 1 and (svg := bands(lines, x_label=label, y_label=f"{measure(metric)}, less SFT", ticks=ticks)):
            pictures.append(Picture(svg, f"{title}: gain over SFT, with 95 % intervals", below=keys(lines)[1]))
    if pictures:
        blocks.append(Row(pictures))
    return Section("sweeps", "Sweeps", blocks, "simulated")


def _parent(evidence: Evidence, system: str, variant: str) -> tuple[str, str]:
    """System and variant of the checkpoint that these runs started from."""
    for cell in evidence.runs(system, variant).values():
        if cell.facts.get("parent"):
            return split_name(cell.facts["parent"])
    return START, ""


def _axis(
    evidence: Evidence, axis: str, systems: tuple[str, ...], metric: str
) -> tuple[Table, list[Band], list[tuple[float, str]]] | None:
    places: list[tuple[str, str, str]] = []  # system, value, variant
    for system in systems:
        here = [(v.partition("=")[2], v) for v in evidence.variants(axis, system)]
        base = evidence.base_value(axis, system) or ("eos_out" if axis == "state" else None)
        if here and base is not None:
            base = base.replace("/", "-")
            numbers = {_number(v): v for v, _ in here}
            if _number(base) not in numbers:
                here.append((base, ""))
        here.sort(key=lambda pair: _order(pair[0]))
        places += [(system, value, variant) for value, variant in here]
    if not any(evidence.runs(s, v) for s, _, v in places if v):
        return None
    from_start, from_control = [], []
    for system, _, variant in places:
        parent, parent_variant = _parent(evidence, system, variant)
        from_start.append(difference(system, parent, metric, variant=variant, b_variant=parent_variant))
        same = "" if axis in OWN_AXES or (axis == "n" and not evidence.runs(CONTROL, variant)) else variant
        from_control.append(difference(system, CONTROL, metric, variant=variant, b_variant=same))
    gains = compare(evidence, from_start)
    kept = [i for i, (system, _, _) in enumerate(places) if system != CONTROL]
    others = dict(zip(kept, compare(evidence, [from_control[i] for i in kept]), strict=True))
    rows: list[list[Entry]] = []
    values = sorted({value for _, value, _ in places}, key=_order)
    lines = {system: Band(row(system), [], i) for i, system in enumerate(systems)}
    for i, (system, value, variant) in enumerate(places):
        found = levels(evidence, system, [metric], variant=variant).get(metric)
        other = others.get(i)
        ratio = of_seeds(evidence.runs(system, variant), "gradient_ratio", "train")
        rows.append(
            [
                f"{row(system)}, {value}" + ("" if variant else " (base)"),
                str(found.seeds) if found else DASH,
                level(found),
                effect(gains[i]),
                verdict(gains[i].word),
                effect(other) if other else DASH,
                plain_number(other.test.detectable, 4) if other and other.test else DASH,
                verdict(other.word) if other else DASH,
                spread(ratio, 3),
            ]
        )
        if (t := gains[i].test) is not None:
            lines[system].points.append((float(values.index(value)), t.effect, t.low, t.high))  # type: ignore[attr-defined]
    head = [
        "",
        "seeds",
        measure(metric),
        "− SFT (95 %)",
        "better",
        "− SFT continued (95 %)",
        "could have seen",
        "better",
        "gradient ratio",
    ]
    seen = [v for v in values if any(e[0] == float(values.index(v)) for b in lines.values() for e in b.points)]
    ticks = [(float(values.index(v)), v) for v in seen]
    return Table(head, rows, (4, 7)), list(lines.values()), ticks


def _number(value: str) -> str:
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _order(value: str) -> tuple[float, str]:
    digits = value.replace("x", "-").split("-")[0]
    try:
        return float(digits), value
    except ValueError:
        return float("inf"), value


def _sharing(evidence: Evidence) -> Block | None:
    rows: list[list[Entry]] = []
    for variant in ["", *evidence.variants("sids", START)]:
        runs = evidence.runs(START, variant)
        if shared := of_seeds(runs, "pairs/shared1"):
            name = variant.partition("=")[2] or (evidence.base_value("sids", START) or "base").replace("/", "-")
            rows.append([name, spread(shared), spread(of_seeds(runs, "pairs/shared2"))])
    return Table(["codebooks", "pairs that share one code", "two codes"], rows) if rows else None
