"""What the report shows of one evaluation set: pictures, tables, tests, slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sidar.evaluate.scorer import CURVE, SID_CURVE
from sidar.evaluate.table import ORIGIN, about, blocks, sampled
from sidar.pages import Interval, Line, Picture, intervals, lines
from sidar.types import Json

Scores = Json  # what scores.json holds
Tests = list[tuple[str, list[Scores]]]  # question -> its tests

KIND_ORDER = ("baseline", "generative", "fusion", "oracle")
PRIMARY = ("item/ndcg@10", "sid/mrr")


@dataclass(frozen=True)
class Table:
    """Blocks of measures by system; ``best`` is the highest mean of a column."""

    blocks: dict[str, list[str]]
    systems: list[str]
    best: dict[str, float]
    queries: dict[str, int]  # by block: how many queries were measured

    @property
    def measures(self) -> list[str]:
        """Return the measures of all blocks in their order."""
        return [measure for measures in self.blocks.values() for measure in measures]

    @property
    def first(self) -> set[str]:
        """Return the measures that begin a block."""
        return {measures[0] for measures in self.blocks.values()}


@dataclass(frozen=True)
class ReportSet:
    """One evaluation set as the report shows it."""

    name: str
    facts: Scores
    origin: str
    about: str
    pictures: list[Picture]
    main: Table | None
    invalid: Table | None
    uniform_mass: float | None  # invalid mass of a model that knows nothing
    sampled: str
    tests: Tests
    more_tests: Tests
    slices: dict[str, list[str]]  # kind of slice -> systems
    covered: list[str]


def headers(scores: Scores) -> dict[str, str]:
    """Return ``{measure: header of its column}``."""
    return {m: header for columns in blocks(scores).values() for m, header in columns.items()}


def names(scores: Scores) -> dict[str, str]:
    """Return ``{measure: header and block}``, for places outside the table."""
    return {
        measure: f"{header} ({title.lower()})"
        for title, columns in blocks(scores).items()
        for measure, header in columns.items()
    }


def report_set(scores: Scores, name: str, colours: Mapping[str, int]) -> ReportSet:
    """Return what the report shows of the set ``name``."""
    facts = scores["sets"][name]
    tests = [test for test in scores["tests"] if test["set"] == name]
    primary = [test for test in tests if test["measure"] in PRIMARY]
    density = (scores.get("sid_usage") or {}).get("density")
    slices = {}
    for kind, labels in facts["slices"].items():
        systems = dict.fromkeys(system for each in labels.values() for system in each["systems"])
        slices[kind] = in_order(scores, systems)
    return ReportSet(
        name=name,
        facts=facts,
        origin=ORIGIN.get(facts["origin"], facts["origin"]),
        about=about(facts).split(", ", 1)[1],
        pictures=_pictures(scores, name, colours),
        main=_table(scores, facts, ("Items", "Semantic IDs")),
        invalid=_table(scores, facts, ("Invalid output", "Items, random order inside an SID")),
        uniform_mass=None if density is None else 1 - density,
        sampled=sampled(facts),
        tests=_by_question(primary),
        more_tests=_by_question([test for test in tests if test["measure"] not in PRIMARY]),
        slices=slices,
        covered=in_order(scores, facts["coverage"]),
    )


def series_numbers(scores: Scores) -> dict[str, int]:
    """Return a series number per system, the same in every picture of the report."""
    systems = (system for facts in scores["sets"].values() for system in facts["systems"])
    return {name: i for i, name in enumerate(in_order(scores, dict.fromkeys(systems)))}


def kind_of(scores: Scores, system: str) -> str:
    """Return baseline, generative, fusion or oracle."""
    return str(scores["kinds"].get(system, "baseline"))


def in_order(scores: Scores, systems: Iterable[str]) -> list[str]:
    """Return systems by kind; inside a kind in the order in which they were scored."""
    return sorted(systems, key=lambda name: KIND_ORDER.index(kind_of(scores, name)))


def how(scores: Scores, system: str, set_name: str) -> str:
    """Return what a system says of itself, or how a fusion was weighted for the set."""
    fusion = scores["fusions"].get(system)
    if fusion is None:
        return str(scores["about"].get(system, ""))
    fact = fusion["sets"][set_name]
    weights = zip(fusion["parts"], fact["weights"], strict=True)
    text = ", ".join(f"{part} {weight:g}" for part, weight in weights)
    source = "equal, not tuned"
    if fact["tuned"]:
        source = f"chosen on the validation sets, nDCG@10 {fact['value']:.3f}"
    return f"{fact['method']}: {text} ({source})"


def _pictures(scores: Scores, name: str, colours: Mapping[str, int]) -> list[Picture]:
    cells = scores["sets"][name]["systems"]
    systems = in_order(scores, cells)
    pictures = []
    for measure in PRIMARY:
        rows = []
        for system in systems:
            if cell := cells[system].get(measure):
                ends = cell["low"], cell["high"]
                rows.append(Interval(_shortened(system), cell["mean"], *ends, colours[system]))
        if rows:
            label = names(scores)[measure]
            alt = f"{label}, mean and 95 % interval"
            pictures.append(intervals(f"{name}-{measure}", alt, rows, label=label))
    for level, title, cutoffs in (
        ("item", "Recall of items", CURVE),
        ("sid", "Recall of Semantic IDs", SID_CURVE),
    ):
        curves = []
        for system in systems:
            known = {k: cells[system].get(f"{level}/recall@{k}") for k in cutoffs}
            points = {k: cell["mean"] for k, cell in known.items() if cell}
            if points:
                line = Line(system, list(points), list(points.values()), colours[system])
                curves.append(line)
        if curves:
            alt = f"{title}, k on a log scale"
            pictures.append(_recall_curves(f"{name}-{level}-recall", alt, curves, cutoffs))
    return pictures


def _recall_curves(
    name: str,
    alt: str,
    curves: Sequence[Line],
    cutoffs: Sequence[float],
) -> Picture:
    return lines(
        name,
        alt,
        curves,
        x_label="k",
        y_label="recall@k",
        x_ticks=cutoffs,
        log_x=True,
        from_zero=True,
    )


def _shortened(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"


def _table(scores: Scores, facts: Scores, titles: Sequence[str]) -> Table | None:
    """Return one wide table of the blocks ``titles``; None where no system has their measures."""
    cells = facts["systems"]
    shown_blocks, queries = {}, {}
    for title in titles:
        measures = [m for m in blocks(scores)[title] if any(m in row for row in cells.values())]
        if measures:
            shown_blocks[title] = measures
            counts = [row[m]["n"] for row in cells.values() for m in measures if m in row]
            queries[title] = int(max(counts))
    shown = [measure for measures in shown_blocks.values() for measure in measures]
    systems = [name for name in in_order(scores, cells) if any(m in cells[name] for m in shown)]
    if not systems:
        return None
    rivals = [name for name in systems if kind_of(scores, name) != "oracle"]
    best = {}
    for measure in shown:
        if measure != "items/returned" and not measure.startswith("invalid/"):
            known = [cells[name][measure]["mean"] for name in rivals if measure in cells[name]]
            best[measure] = max(known, default=0.0)
    return Table(shown_blocks, systems, best, queries)


def _by_question(tests: Sequence[Scores]) -> Tests:
    return [(question, list(some)) for question, some in groupby(tests, lambda t: t["question"])]
