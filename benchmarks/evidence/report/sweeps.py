"""One dial at a time: negatives, β, rows, size, prefix sharing, the state that RDRW compares."""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence, split_name
from benchmarks.evidence.report.compare import CONTROL, START, compare, difference, levels
from benchmarks.evidence.report.document import Block, Entry, Heading, Picture, Row, Section, Table, Text
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.pictures import Band, bands, keys
from benchmarks.evidence.report.show import DASH, effect, level, of_seeds, plain_number, row_seeds, spread, verdict

AXES = {
    "n": ("Negatives per list", ("raddpo", "raddpo-paper", "simpo", "sdpo"), "at most this many negatives"),
    "beta": ("β", ("raddpo", "raddpo-paper"), "β of the contrast"),
    "lists": ("Rows of alignment", ("raddpo", "dpo", CONTROL), "rows (steps × batch)"),
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
        if axis == "lists" and (share := evidence.registration["bed"]["settings"]["align"].get("item_share")):
            blocks.append(
                Text(
                    f"Rows are steps × batch; {float(share):.0%} of them are item text, so "
                    f"{1 - float(share):.0%} of the "
                    "number are preference lists."
                )
            )
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
    seeds, told = row_seeds(evidence, [(system, variant) for system, _, variant in places], [metric])
    values = sorted({value for _, value, _ in places}, key=_order)
    lines = {system: Band(row(system), [], i) for i, system in enumerate(systems)}
    for i, (system, value, variant) in enumerate(places):
        found = levels(evidence, system, [metric], variant=variant, seeds=seeds).get(metric)
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
                plain_number(other.detectable, 4) if other else DASH,
                verdict(other.word) if other else DASH,
                spread(ratio, 3),
            ]
        )
        if (t := gains[i].test) is not None:
            lines[system].points.append((float(values.index(value)), t.effect, t.low, t.high))
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
    return Table(head, rows, (4, 7), told), list(lines.values()), ticks


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
