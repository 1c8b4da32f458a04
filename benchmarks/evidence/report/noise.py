"""Good, unclicked items put in the place of negatives: does RDRW pay when the log is noisier?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from benchmarks.evidence.report.cells import Cell, Evidence
from benchmarks.evidence.report.compare import CONTROL, Contrast, Result, compare, difference
from benchmarks.evidence.report.document import Block, Entry, Picture, Row, Table, Text
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.pictures import Band, bands, keys
from benchmarks.evidence.report.show import comparisons, spread

#: Lines of the noise chart: system, and the state that RDRW compares where it is not the default.
NOISE_ROWS = (
    ("raddpo", ""),
    ("raddpo-no-rdrw", ""),
    ("raddpo-shuffled", ""),
    ("raddpo-constant", ""),
    ("raddpo", "state=item_vector"),
)


#: What is compared at each noise: RDRW with its controls, and with item vectors against none.
PAIRS = (*((NOISE_ROWS[0], other) for other in NOISE_ROWS[1:4]), (NOISE_ROWS[4], NOISE_ROWS[1]))
Pair = tuple[tuple[str, str], tuple[str, str]]


def _at(pair: Pair, metric: str, variant: str) -> Contrast:
    (a, a_state), (b, b_state) = pair
    at, b_at = (",".join(filter(None, (variant, state))) for state in (a_state, b_state))
    return difference(a, b, metric, variant=at, b_variant=b_at)


def _told(pair: Pair) -> str:
    return " − ".join(_noise_name(*side) for side in pair)


@cache
def slopes(evidence: Evidence, metric: str) -> dict[str, Result]:
    """{pair: its difference at the most noise less the same at 0}; the first is
    RDRW against none.
    """
    variants = evidence.variants("noise", "raddpo")
    if not variants:
        return {}
    contrasts = []
    for pair in PAIRS:
        first, last = (_at(pair, metric, variant) for variant in ("", variants[-1]))
        contrasts.append(Contrast((*last.plus, *first.minus), (*last.minus, *first.plus)))
    return dict(zip(map(_told, PAIRS), compare(evidence, contrasts), strict=True))


def _noise_name(system: str, state: str) -> str:
    return row(system) + (f" on {state.partition('=')[2]}" if state else "")


def noise(evidence: Evidence) -> list[Block]:
    """Good, unclicked items put in the place of negatives; 0 is the log as it is."""
    variants = evidence.variants("noise", "raddpo")
    run = [v for v in variants if evidence.runs("raddpo", v)]
    if not run:
        return [Text("Not run.")]
    places = [("0", ""), *((v.partition("=")[2], v) for v in run)]
    # what is planned is in the family, run or not
    asked = [("0", ""), *((v.partition("=")[2], v) for v in variants)]
    pictures, tables = [], []
    for metric in (PRIMARY["click"][0], "click.sid.recall@8", PRIMARY["click"][1]):
        series = []
        for colour, (system, state) in enumerate(NOISE_ROWS):
            at = {
                float(value): ",".join(filter(None, (variant, state))) for value, variant in places
            }
            against = [
                difference(system, CONTROL, metric, variant=variant, b_variant="")
                for variant in at.values()
            ]
            tests = [(x, each.test) for x, each in zip(at, compare(evidence, against), strict=True)]
            points = [(x, t.effect, t.low, t.high) for x, t in tests if t is not None]
            if len(points) > 1:
                series.append(Band(_noise_name(system, state), points, colour))
        ticks = [(float(value), f"{float(value):.0%}") for value, _ in places]
        name = measure(metric)
        if svg := bands(
            series,
            x_label="negatives replaced by good items that were not clicked",
            y_label=f"{name} (clicks), less SFT continued",
            ticks=ticks,
        ):
            named, html = keys(series)
            slug = metric.removeprefix("click.").replace(".", "-").replace("@", "")
            pictures.append(
                Picture(
                    svg,
                    f"{name} less SFT continued, against noise",
                    f"evidence-noise-{slug}.svg",
                    html,
                    named,
                )
            )
        names, contrasts = [], []
        for pair in PAIRS:
            for value, variant in asked:
                names.append(f"{_told(pair)}, noise {float(value):.0%}")
                contrasts.append(_at(pair, metric, variant))
        found = zip(names, compare(evidence, contrasts), strict=True)
        tables.append(comparisons([(n, r) for n, r in found if r.test is not None], first=name))
        told = f"{name}: the same at {float(asked[-1][0]):.0%} less at 0"
        tables.append(comparisons(list(slopes(evidence, metric).items()), first=told))
    return [
        Text(
            "A share of the negatives of every training list is replaced by relevant items that "
            "were not clicked, on top of the pseudo-negatives of the log itself. So the share of "
            "relevant negatives is not 0 at 0 and not the nominal one elsewhere. The charts show "
            "paired differences to SFT continued, which reads no negative, with 95 % intervals; "
            "each point uses the seeds that it shares with it."
        ),
        *_measured(evidence, places),
        Row(pictures),
        *tables,
    ]


def relevant_share(runs: Mapping[int | None, Cell]) -> list[float]:
    """Share of relevant items among the negatives that each seed was trained on, of cells that say
    so.
    """
    found = [(cell.facts.get("lists") or {}).get("relevant_share") for cell in runs.values()]
    return [float(v) for v in found if v is not None]


def _measured(evidence: Evidence, places: list[tuple[str, str]]) -> list[Block]:
    """The share that was asked for beside the share of relevant negatives that was trained on."""
    rows: list[list[Entry]] = []
    for value, variant in places:
        if shares := relevant_share(evidence.runs("raddpo", variant)):
            rows.append([f"{float(value):.0%}", spread(shares)])
    head = ["negatives replaced (nominal)", "relevant ones among the trained negatives (measured)"]
    return [Table(head, rows)] if rows else []
