"""What decoding costs: recall by beam, the beam for equal recall, steps, prefixes and milliseconds."""

from __future__ import annotations

from typing import Any

from sidar.evaluate.charts import Series, lines
from sidar.evaluate.document import Block, Cell, Picture, Section, Table, Text
from sidar.pipeline.bakeoff.page_parts import Results, colours, contenders, whole


def section(results: Results, prefix: str) -> Section:
    """The picture of recall by width and the table of costs."""
    decoding = results["decoding"]
    title = "Decoding at equal recall"
    if not decoding:
        return Section("decoding", title, [Text("No beams of several widths were measured.")])
    systems, mode = results["sets"][decoding["set"]]["systems"], decoding["mode"]
    colour = colours(results)
    curves = []
    for name in whole(results):
        points = [
            (width, cell["mean"])
            for width in results["beams"]["widths"]
            if (cell := systems[name].get(f"beam/{mode}/recall@{width}"))
        ]
        curves.append(Series(name, [x for x, _ in points], [y for _, y in points], colour[name]))
    svg = lines(curves, x_label="beam", y_label="item R@100", log_x=True, y_from_zero=True, points=True,
                x_ticks=results["beams"]["widths"])  # fmt: skip
    keys = [(curve.name, curve.colour) for curve in curves]
    caption = f"Item recall (first {decoding['cut']} items) by width of the beam, {decoding['set']}"
    blocks: list[Block] = [Picture(svg, caption, f"{prefix}beams.svg", keys), Text(_rule(results))]
    rows: list[list[Cell]] = []
    for name, one in decoding["beams"].items():
        costs = decoding["costs"][name]
        own = costs.get(str(round(one["beam"]))) if one["beam"] else None
        equal = costs[str(decoding["equal_beam"])]
        rows.append([name, _beam(one, results), *_cost(own), *_cost(equal)])
    equal_beam = decoding["equal_beam"]
    head = ["", "beam for equal recall", "steps", "prefixes", "ms"]
    head += [f"steps at {equal_beam}", f"prefixes at {equal_beam}", f"ms at {equal_beam}"]
    note = (
        "*steps*: forward passes after the prompt. *prefixes*: rows that were extended in them, over all steps. "
        "*ms*: median per query, one query at a time on one thread, prompt included; CPU time (wall time on a GPU), "
        "methods in turn. SIDs of several lengths take a step for each level of the longest."
    )
    blocks.append(Table(head, rows, note=note))
    blocks.append(Text(_answer(results)))
    return Section("decoding", title, blocks)


def _rule(results: Results) -> str:
    decoding = results["decoding"]
    widest = max(results["beams"]["widths"])
    return (
        f"Equal recall is {decoding['share']:.0%} of {results['reference']}'s at its widest beam: "
        f"R@{decoding['cut']} = {decoding['target']:.3f} on {decoding['set']} ({decoding['mode']} prompts). Between "
        f"two widths recall is taken as linear in log₂ of the width; intervals resample queries. > {widest}: no beam "
        "that was tried reaches it."
    )


def _beam(one: dict[str, Any], results: Results) -> str:
    widest = f"> {max(results['beams']['widths'])}"
    if one["beam"] is None:
        return widest
    ends = " to ".join(widest if end is None else f"{end:.0f}" for end in (one["low"], one["high"]))
    return f"{one['beam']:.0f} ({ends})"


def _cost(cost: dict[str, float] | None) -> list[Cell]:
    if cost is None:
        return ["–", "–", "–"]
    return [f"{cost['steps']:.1f}", f"{cost['rows']:,.0f}", f"{cost['ms']:.1f}"]


def _answer(results: Results) -> str:
    """Whose beam is surely narrower than the reference's: intervals that do not meet."""
    beams, reference = results["decoding"]["beams"], results["reference"]
    own = beams[reference]
    if own["low"] is None:
        return f"{reference}'s own beam is not narrowed down by these queries, so nothing can be compared with it."
    narrower = [
        name for name in contenders(results) if name != reference and beams[name]["high"] is not None
        and beams[name]["high"] < own["low"]
    ]  # fmt: skip
    if not narrower:
        return f"No method surely needs a narrower beam than {reference}: the intervals of the beams overlap."
    return f"Surely narrower beams than {reference}'s (intervals that do not meet): {', '.join(narrower)}."
