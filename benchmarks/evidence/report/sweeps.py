"""One dial at a time: negatives, β, rows, size, prefix sharing, the state that RDRW compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from benchmarks.evidence.report.cells import Evidence, split_name
from benchmarks.evidence.report.compare import (
    CONTROL,
    START,
    Contrast,
    Result,
    Side,
    compare,
    difference,
    levels,
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
)
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.noise import relevant_share
from benchmarks.evidence.report.parts import rows_at_equal_rates
from benchmarks.evidence.report.pictures import Band, bands, keys
from benchmarks.evidence.report.shipped import shipped
from benchmarks.evidence.report.show import (
    DASH,
    comparisons,
    effect,
    inactive,
    level,
    of_seeds,
    plain_number,
    row_seeds,
    spread,
    tally,
    verdict,
)


@dataclass(frozen=True)
class Axis:
    """A dial: its heading, the rows of its table, what it counts, and what else turns with it.

    ``own``: SFT-continued does not know it, so its base cell is the control at every value.
    ``gains``: levels of different values cannot be set beside each other (another model, other
    SIDs), only gains over SFT continued.
    """

    title: str
    systems: tuple[str, ...]
    label: str
    also: str = ""
    own: bool = False
    gains: bool = False


AXES = {
    "n": Axis(
        "Negatives per list",
        ("raddpo", "raddpo-paper", "simpo", "sdpo"),
        "at most this many negatives",
        "What turns with n: which negatives they are (they are cut by position, and the logger "
        "shows good items first: see the share of relevant ones), and how many steps RDRW's "
        "warm-up takes (a window of pairs at weight 1, which lists with one negative fill most "
        "slowly). β and the learning rate stay as tuned at n = 3.",
    ),
    "beta": Axis("β", ("raddpo", "raddpo-paper"), "β of the contrast", own=True),
    "lists": Axis(
        "Rows of alignment",
        ("raddpo", "dpo", CONTROL),
        "rows (steps × batch)",
        "The rows are of one log: more rows are also more steps and a longer schedule. At the "
        "fewest rows a larger share of them is RDRW's warm-up.",
        gains=True,
    ),
    "size": Axis(
        "Size of the model",
        ("raddpo", "dpo", CONTROL),
        "layers × width",
        "Learning rates and β are those that were tuned at the base size, and every size has the "
        "same steps of SFT: the larger the model, the further it is from its plateau.",
        gains=True,
    ),
    "sids": Axis(
        "Prefix sharing",
        ("raddpo", "raddpo-no-tlgd", CONTROL),
        "codebook sizes",
        "Ordered by how many pairs of y_w* and a negative share the first code. SIDs differ, so "
        "levels of different codebooks say nothing beside each other.",
        gains=True,
    ),
    "state": Axis("The state that RDRW compares", ("raddpo",), "rdrw_state", own=True),
}
#: The parts of the sharing question: TLGD masks what pairs share, so it should be worth more where
#: they share more.
TLGD = ("raddpo", "raddpo-no-tlgd")


@dataclass(frozen=True)
class Place:
    """One row of an axis's table; the base setting has no variant."""

    system: str
    value: str
    variant: str


def sweeps(evidence: Evidence) -> Section:
    """Tables and a picture per axis; what was planned and not run is said so."""
    metric = PRIMARY["click"][0]
    blocks: list[Block] = [
        Text(
            f"{measure(metric)} on day-8 clicks. Against SFT: the very checkpoint that the run "
            "started from. Against SFT continued: at the same setting, where such a cell exists. "
            "Everything in a table is of the seeds that its rows share. Rows marked *base* are "
            "the setting of all other sections, whose verdicts they have; they are no members of "
            "the families here. Holm runs inside each table."
        )
    ]
    pictures = []
    for name, axis in AXES.items():
        found = _axis(evidence, name, axis, metric)
        blocks.append(Heading(axis.title))
        if found is None:
            blocks.append(Text("Not run."))
            continue
        table, lines, ticks = found
        changes = _changes(evidence, name, axis)
        blocks += [*changes[:1], table, *changes[1:]]
        share = float(evidence.registration["bed"]["settings"]["align"].get("item_share") or 0)
        if name == "lists" and share:
            blocks.append(
                Text(
                    f"Rows are steps × batch; {share:.0%} of them are item text, so "
                    f"{1 - share:.0%} of the number are preference lists."
                )
            )
        if axis.also:
            blocks.append(Text(axis.also))
        if name == "lists":
            blocks += _equal_rates(evidence)
        if name == "sids":
            blocks += _sharing(evidence)
        label = f"{measure(metric)}, less SFT"
        if len(ticks) > 1 and (svg := bands(lines, x_label=axis.label, y_label=label, ticks=ticks)):
            pictures.append(
                Picture(
                    svg, f"{axis.title}: gain over SFT, with 95 % intervals", below=keys(lines)[1]
                )
            )
    blocks += shipped(evidence)
    if pictures:
        blocks.append(Row(pictures))
    return Section("sweeps", "Sweeps", blocks, "simulated")


# ---------------------------------------------------------------------- where the rows stand


def _places(evidence: Evidence, name: str, systems: Sequence[str]) -> list[Place]:
    """The rows of an axis, run or planned, system by system in the order of their values."""
    order, out = _order(evidence, name), []
    for system in systems:
        here = [Place(system, v.partition("=")[2], v) for v in evidence.variants(name, system)]
        base = evidence.base_value(name, system) or ("eos_out" if name == "state" else None)
        if (
            here
            and base is not None
            and _number(base) not in {_number(place.value) for place in here}
        ):
            here.append(Place(system, base.replace("/", "-"), ""))
        out += sorted(here, key=lambda place: order(place.value))
    return out


def _number(value: str) -> str:
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _order(evidence: Evidence, name: str) -> Callable[[str], tuple[float, str]]:
    """What the values of an axis are sorted by: their number, or the measured sharing of a
    codebook's pairs.
    """
    shares = _shares(evidence) if name == "sids" else {}

    def key(value: str) -> tuple[float, str]:
        if value in shares:
            return shares[value], value
        try:
            return float(value.replace("x", "-").split("-")[0]), value
        except ValueError:
            return float("inf"), value

    return key


def _codebooks(evidence: Evidence) -> dict[str, str]:
    """{variant: codebook sizes} of the prefix-sharing axis, the base setting among them."""
    base = (evidence.base_value("sids", START) or "base").replace("/", "-")
    return {"": base} | {v: v.partition("=")[2] for v in evidence.variants("sids", START)}


def _shares(evidence: Evidence) -> dict[str, float]:
    """{codebook sizes: mean share of pairs with one first code}, where SFT models were probed."""
    out = {}
    for variant, name in _codebooks(evidence).items():
        if shared := of_seeds(evidence.runs(START, variant), "pairs/shared1"):
            out[name] = sum(shared) / len(shared)
    return out


def _parent(evidence: Evidence, place: Place) -> tuple[str, str]:
    """System and variant of the checkpoint that these runs started from."""
    for cell in evidence.runs(place.system, place.variant).values():
        if cell.facts.get("parent"):
            return split_name(cell.facts["parent"])
    return START, ""


# ---------------------------------------------------------------------- the tables


def _axis(
    evidence: Evidence, name: str, axis: Axis, metric: str
) -> tuple[Table, list[Band], list[tuple[float, str]]] | None:
    places = _places(evidence, name, axis.systems)
    if not any(evidence.runs(place.system, place.variant) for place in places if place.variant):
        return None
    seeds, told = row_seeds(evidence, [(place.system, place.variant) for place in places], [metric])
    from_start, from_control = [], []
    for place in places:
        parent, parent_variant = _parent(evidence, place)
        at = {"variant": place.variant, "seeds": seeds}
        from_start.append(difference(place.system, parent, metric, b_variant=parent_variant, **at))
        same = "" if axis.own or not _planned(evidence, CONTROL, place.variant) else place.variant
        from_control.append(difference(place.system, CONTROL, metric, b_variant=same, **at))
    gains = _families(evidence, places, from_start)
    kept = [i for i, place in enumerate(places) if place.system != CONTROL]
    some = _families(evidence, [places[i] for i in kept], [from_control[i] for i in kept])
    others = dict(zip(kept, some, strict=True))
    with_share = name == "n" and any(
        relevant_share(evidence.runs(p.system, p.variant)) for p in places
    )
    rows: list[list[Entry]] = []
    values = sorted({place.value for place in places}, key=_order(evidence, name))
    lines = {system: Band(row(system), [], i) for i, system in enumerate(axis.systems)}
    for i, place in enumerate(places):
        runs = evidence.runs(place.system, place.variant)
        runs = {seed: cell for seed, cell in runs.items() if seeds is None or seed in seeds}
        found = levels(evidence, place.system, [metric], variant=place.variant, seeds=seeds).get(
            metric
        )
        other = others.get(i)
        base = not place.variant
        rows.append(
            [
                f"{row(place.system)}, {place.value}" + (" (*base*)" if base else ""),
                str(found.seeds) if found else DASH,
                level(found),
                effect(gains[i]),
                DASH if base else plain_number(gains[i].detectable, 4),
                DASH if base else verdict(gains[i].word),
                effect(other) if other else DASH,
                DASH if base or not other else plain_number(other.detectable, 4),
                DASH if base or not other else verdict(other.word),
                _ratio(of_seeds(runs, "gradient_ratio", "train"), place.system),
                *([spread(relevant_share(runs))] if with_share else []),
            ]
        )
        if (t := gains[i].test) is not None:
            lines[place.system].points.append(
                (float(values.index(place.value)), t.effect, t.low, t.high)
            )
    head = ["", "seeds", measure(metric)]
    for control in ("SFT", "SFT continued"):
        head += [f"− {control} (95 %)", "could have seen", "better"]
    head += ["gradient ratio", *(["relevant negatives"] if with_share else [])]
    seen = [
        v
        for v in values
        if any(e[0] == float(values.index(v)) for b in lines.values() for e in b.points)
    ]
    return (
        Table(head, rows, (5, 8), told),
        list(lines.values()),
        [(float(values.index(v)), v) for v in seen],
    )


def _ratio(ratios: list[float], system: str) -> Entry:
    """The gradient ratio of training, and *inactive* below one per cent (docs/evaluation.md)."""
    shown = spread(ratios, 3)
    return replace(shown, text=f"{shown.text}, inactive") if inactive(ratios, system) else shown


def _families(
    evidence: Evidence, places: Sequence[Place], contrasts: Sequence[Contrast]
) -> list[Result]:
    """Results in the given order: what is varied is one family, a base row stands alone (its family
    is elsewhere).
    """
    varied = [i for i, place in enumerate(places) if place.variant]
    found = dict(zip(varied, compare(evidence, [contrasts[i] for i in varied]), strict=True))
    return [
        found[i] if i in found else compare(evidence, [each])[0] for i, each in enumerate(contrasts)
    ]


def _planned(evidence: Evidence, system: str, variant: str) -> bool:
    return bool(evidence.runs(system, variant)) or (system, variant) in evidence.plan


# ---------------------------------------------------------------------- from one value to another


def changed(evidence: Evidence, name: str) -> dict[str, tuple[Place, Place]]:
    """{what: (a, b)} of the values of axis ``name`` that are set beside each other, system by
    system.
    """
    axis = AXES[name]
    asked: dict[str, tuple[Place, Place]] = {}
    for system in axis.systems:
        here = [
            p for p in _places(evidence, name, [system]) if _planned(evidence, p.system, p.variant)
        ]
        if system == CONTROL or len(here) < 2:
            continue
        base = next((p for p in here if not p.variant), None)
        pairs = [] if axis.gains or base is None else [(p, base) for p in here if p.variant]
        if name != "state":
            pairs.append((here[-1], here[0]))
        asked |= {f"{row(system)}: {a.value} − {b.value}": (a, b) for a, b in pairs}
    return asked


@cache
def changes(evidence: Evidence, name: str, metric: str) -> dict[str, Result]:
    """{what: result} of :func:`changed`, corrected among each other: the one verdict on what
    turning a dial does.
    """
    asked = changed(evidence, name)
    results = compare(evidence, [_change(AXES[name], metric, a, b) for a, b in asked.values()])
    return dict(zip(asked, results, strict=True))


def _changes(evidence: Evidence, name: str, axis: Axis) -> list[Block]:
    """What turning the dial does, paired by seed and query: a sentence, a table, and the other
    measures behind it.
    """
    if not changed(evidence, name):
        return []
    what = "gain over SFT continued" if axis.gains else "level"
    tables, told = [], []
    for metric in (*PRIMARY["click"], *PRIMARY["utility"]):
        results, target = changes(evidence, name, metric), metric.partition(".")[0]
        first = f"{measure(metric)} ({target}), change of the {what}"
        tables.append(comparisons(list(results.items()), first=first, directions=True))
        told.append(tally(f"{measure(metric)} ({target})", list(results.values())))
    return [
        Text(
            f"**From one value to another** ({what}; Holm inside each measure; table below): "
            f"{' '.join(told)}"
        ),
        tables[0],
        Fold(f"{axis.title}: the same changes on other measures", tables[1:]),
    ]


def _change(axis: Axis, metric: str, a: Place, b: Place) -> Contrast:
    """a − b, or of their gains over SFT continued at each."""
    if not axis.gains:
        return difference(
            a.system, b.system, metric, variant=a.variant, b_variant=b.variant, across=True
        )
    return Contrast(
        (Side(a.system, metric, a.variant), Side(CONTROL, metric, b.variant)),
        (Side(b.system, metric, b.variant), Side(CONTROL, metric, a.variant)),
        across=True,
    )


def _equal_rates(evidence: Evidence) -> list[Block]:
    """Whether what grows with the rows is the contrast's or the learning rate's."""
    tables: list[Block] = []
    for metric in (*PRIMARY["click"], *PRIMARY["utility"]):
        if found := rows_at_equal_rates(evidence, metric):
            first = (
                f"{row('raddpo')} − {row(CONTROL)} at its rate: {measure(metric)} "
                f"({metric.partition('.')[0]})"
            )
            tables.append(comparisons(list(found.items()), first=first, directions=True))
    if not tables:
        return []
    told = Text(
        "Above, each row has the rate that day 7 chose for it, and RAD-DPO's is the higher one: "
        "what its gain over SFT continued grows by may be the rate's. So here again, SFT continued "
        "at RAD-DPO's rate (planned after the rows were run):"
    )
    return [
        told,
        tables[0],
        Fold("Rows at equal rates: item level, and the true utility", tables[1:]),
    ]


# ---------------------------------------------------------------------- prefix sharing


def _sharing(evidence: Evidence) -> list[Block]:
    """How much each codebook shares, and what TLGD is worth there."""
    order, named = _order(evidence, "sids"), _codebooks(evidence)
    variants = sorted(named, key=lambda v: order(named[v]))
    rows: list[list[Entry]] = []
    for variant in variants:
        runs = evidence.runs(START, variant)
        if shared := of_seeds(runs, "pairs/shared1"):
            rows.append([named[variant], spread(shared), spread(of_seeds(runs, "pairs/shared2"))])
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(["codebooks", "pairs that share one code", "two codes"], rows))
    a, b = TLGD
    for metric in (PRIMARY["click"][0], PRIMARY["utility"][0]):
        asked = {f"at {named[v]}": difference(a, b, metric, variant=v) for v in variants if v}
        asked |= {
            f"at {named[v]}, less at {named['']} (*base*)": Contrast(
                (Side(a, metric, v), Side(b, metric)),
                (Side(b, metric, v), Side(a, metric)),
                across=True,
            )
            for v in variants
            if v
        }
        if asked:
            first = f"{row(a)} − {row(b)}: {measure(metric)} ({metric.partition('.')[0]})"
            results = compare(evidence, list(asked.values()))
            blocks.append(comparisons(list(zip(asked, results, strict=True)), first=first))
    return blocks
