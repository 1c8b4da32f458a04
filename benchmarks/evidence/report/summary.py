"""Every claim of the paper in one line, with the word for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

from benchmarks.evidence.report.cells import Evidence, sort_key
from benchmarks.evidence.report.compare import (
    CONTROL,
    NOT_RUN,
    START,
    Contrast,
    Result,
    Side,
    against,
    all_of,
    compare,
    difference,
)
from benchmarks.evidence.report.document import Block, Entry, Section, Table, Text, Value
from benchmarks.evidence.report.names import (
    PAPER_MEMORY,
    PAPER_SIZES,
    PAPER_SPEED,
    PRIMARY,
    measure,
    row,
)
from benchmarks.evidence.report.noise import slopes
from benchmarks.evidence.report.parts import against_twin, rows_at_equal_rates
from benchmarks.evidence.report.show import DASH, effect, of_seeds, plain_number, signed, verdict
from benchmarks.evidence.report.sweeps import changed, changes

#: Baselines with RAD-DPO's own SFT term (docs/evaluation.md): what the contrast adds, not the term.
TWINS = ("dpo+sft", "simpo+sft", "sdpo+sft")


@cache
def claims(evidence: Evidence, metric: str) -> dict[str, Result]:
    """{id: result} of the registered claims: those against SFT or SFT-continued are corrected with
    the main table's methods, the others among themselves."""
    out: dict[str, Result] = {}
    own = []
    for claim in evidence.registration["claims"]:
        family = against(evidence, claim["b"], metric) if claim["b"] in (START, CONTROL) else {}
        if claim["a"] in family:
            found = family[claim["a"]]
            out[claim["id"]] = replace(found, contrast=replace(found.contrast, sign=claim["sign"]))
        else:
            own.append(claim)
    contrasts = [difference(c["a"], c["b"], metric, sign=c["sign"]) for c in own]
    return out | {c["id"]: r for c, r in zip(own, compare(evidence, contrasts), strict=True)}


@cache
def order(evidence: Evidence) -> list[Result]:
    """Neighbours in the paper's order of harm: each less the one before it, on
    exact invalid mass.
    """
    names = evidence.registration["hallucination_order"]
    return compare(evidence, [difference(b, a, "invalid.mass") for a, b in pairwise(names)])


def at_each(evidence: Evidence, axis: str, a: str, b: str, metric: str) -> list[tuple[str, Result]]:
    """[(value, a − b at it)] over the base setting and every planned value of ``axis``; Holm over
    them.
    """
    values = {v.partition("=")[2]: v for v in evidence.variants(axis, a)}
    base = evidence.base_value(axis, a)
    if base is not None:
        values.pop(base.replace("/", "-"), None)
        values = {base: "", **values}
    names = sorted(values, key=lambda v: sort_key(f"{axis}={v}"))
    results = compare(evidence, [difference(a, b, metric, variant=values[v]) for v in names])
    return list(zip(names, results, strict=True))


@dataclass(frozen=True)
class Line:
    """One line of the summary: the claim and, at SID and item level, what came out."""

    text: str
    words: tuple[str, str]
    effects: tuple[Entry, Entry]
    seen: tuple[str, str]
    paper: str
    agree: str = DASH  # seeds with the sign of the effect, SID level
    ranks: bool = True  # a claim about ranking on day 8, not about an AUC, invalid mass or speed


def _line(text: str, results: list[Result], paper: float | str | None) -> Line:
    """``paper``: its effect, or what it says instead; None where it reports none."""
    if isinstance(paper, float):
        paper = f"{signed(paper)}{_place(paper, results[0])}"
    paper = paper or "not reported"
    return Line(
        text,
        (results[0].word, results[1].word),
        (effect(results[0]), effect(results[1])),
        (plain_number(results[0].detectable, 4), plain_number(results[1].detectable, 4)),
        paper,
        f"{results[0].agreeing} of {len(results[0].seeds)}" if results[0].seeds else DASH,
    )


def _place(paper: float, result: Result) -> str:
    """Whether the paper's effect lies in the interval here."""
    if (t := result.test) is None or result.same:
        return ""
    return (
        " (inside)" if t.low <= paper <= t.high else f" ({'above' if paper > t.high else 'below'})"
    )


def lines(evidence: Evidence) -> list[Line]:
    """All claims: the registered ones, then those that need more than one comparison."""
    sid, item = PRIMARY["click"]
    out = []
    for claim in evidence.registration["claims"]:
        paper = float(claim["paper"]) if claim.get("paper") is not None else None
        out.append(
            _line(claim["text"], [claims(evidence, m)[claim["id"]] for m in (sid, item)], paper)
        )
    for system in TWINS:
        text = (
            f"RAD-DPO beats {row(system)} (its own SFT term given to the baseline; not registered)"
        )
        out.append(_line(text, [against_twin(evidence, system, m) for m in (sid, item)], None))
    out.append(_denoises(evidence))
    if noisy := evidence.variants("noise", "raddpo-no-rdrw"):
        results = [next(iter(slopes(evidence, m).values())) for m in (sid, item)]
        share = float(noisy[-1].partition("=")[2])
        out.append(
            _line(
                f"RDRW gains more with {share:.0%} of the negatives made good items", results, None
            )
        )
    steps = order(evidence)
    names = " < ".join(
        row(s).partition(" (")[0] for s in evidence.registration["hallucination_order"]
    )
    harm = _many(
        f"Invalid mass: {names}", steps, ".0575 < .0652 < .0685 < .0708 < .0838", "least step"
    )
    out.append(replace(harm, ranks=False))
    sizes = [r for _, r in at_each(evidence, "size", "raddpo", START, sid)]
    items = [r for _, r in at_each(evidence, "size", "raddpo", START, item)]
    said = ", ".join(f"{size} {signed(gain)}" for size, gain in PAPER_SIZES.items())
    out.append(_many("RAD-DPO beats SFT at every size of the model", sizes, said, "least", items))
    out.append(_shrinks(evidence))
    out.append(_data(evidence))
    if rows_at_equal_rates(evidence, sid):
        results = [rows_at_equal_rates(evidence, m)["the change"] for m in (sid, item)]
        out.append(
            _line(
                "… the same with SFT continued at RAD-DPO's own learning rate (not registered)",
                results,
                None,
            )
        )
    out.append(replace(_speed(evidence), ranks=False))
    return out


def _shrinks(evidence: Evidence) -> Line:
    """Table 2's own trend: RAD-DPO's gain over SFT on the largest model, less that
    on the smallest.
    """
    runs = {v: evidence.runs("raddpo", v) for v in evidence.variants("size", "raddpo")}
    there = [v for v in runs if runs[v] and evidence.runs(START, v)]
    results = [Result(difference("raddpo", START, m, variant="size=?")) for m in PRIMARY["click"]]
    text = "RAD-DPO's gain over SFT is smaller on a larger model"
    if len(there) > 1:
        results = []
        for m in PRIMARY["click"]:
            large, small = (
                [Side("raddpo", m, there[i]), Side(START, m, there[i])] for i in (-1, 0)
            )
            grows = Contrast((large[0], small[1]), (large[1], small[0]), sign="-", across=True)
            results += compare(evidence, [grows])
        text += f" ({there[-1].partition('=')[2]} against {there[0].partition('=')[2]})"
    sizes = list(PAPER_SIZES.values())
    return _line(text, results, sizes[-1] - sizes[0])


def _many(
    text: str, results: list[Result], paper: str, which: str, items: list[Result] | None = None
) -> Line:
    """A claim that holds only if every one of ``results`` does; says how many there are yet."""
    run = sum(r.test is not None for r in results)
    text += f" ({run} of {len(results)} run)" if 0 < run < len(results) else ""

    def least(some: list[Result] | None) -> tuple[str, Entry, str]:
        known = [r for r in some or () if r.test is not None]
        if some is None or len(known) < min(2, len(some)) or not known:
            return NOT_RUN if some is not None else DASH, DASH, DASH
        worst = min(known, key=lambda r: r.test.effect if r.test else 0.0)
        found = effect(worst)
        shown = Value(f"{which} {found.text}", found.small, found.short)
        return all_of([r.word for r in some]), shown, plain_number(worst.detectable, 4)

    a, b = least(results), least(items)
    return Line(text, (a[0], b[0]), (a[1], b[1]), (a[2], b[2]), paper)


def _denoises(evidence: Evidence) -> Line:
    """AUC of the similarity: does it know passed-over good items from bad ones?"""
    runs, name = evidence.runs("raddpo"), "rdrw/eos_out/auc"
    mean, low, high = (of_seeds(runs, name + end) for end in ("", "_low", "_high"))
    if not mean or len(low) != len(mean) or len(high) != len(mean):
        word, shown = NOT_RUN, DASH
    else:
        word = (
            "holds"
            if min(low) > 0.5
            else "does not hold"
            if max(high) < 0.5
            else "cannot tell here"
        )
        shown = (
            f"AUC {plain_number(sum(mean) / len(mean))} "
            f"({plain_number(min(low))}–{plain_number(max(high))})"
        )
        if within := of_seeds(runs, f"{name}_within"):
            shown += f", inside a list {plain_number(sum(within) / len(within))}"
    text = "RDRW's similarity finds passed-over good items (AUC above .5)"
    return Line(text, (word, DASH), (shown, DASH), (DASH, DASH), "not reported", ranks=False)


def _data(evidence: Evidence) -> Line:
    """RAD-DPO's gain over SFT continued on the most rows, less that on the fewest, as the sweep of
    rows has it.
    """
    text = "RAD-DPO's gain over SFT continued grows with the rows of alignment"
    results = [
        Result(difference("raddpo", "raddpo", m, variant="lists=?")) for m in PRIMARY["click"]
    ]
    asked = {
        what: pair
        for what, pair in changed(evidence, "lists").items()
        if pair[0].system == "raddpo"
    }
    if asked:
        ((what, (most, fewest)),) = asked.items()
        results = [changes(evidence, "lists", m)[what] for m in PRIMARY["click"]]
        text += f" ({most.value} against {fewest.value})"
    return _line(text, results, "grows, in a figure without numbers (10–50M)")


def _speed(evidence: Evidence) -> Line:
    """The packed step against DPO by pairs, from its own benchmark."""
    path = evidence.results.parent / "preference_step.json"
    text = "The packed step against DPO by pairs: × 3 speed, half the memory (CPU, n = 3)"
    paper = f"× {PAPER_SPEED:g}, memory −{PAPER_MEMORY:.0%}"
    if not path.is_file():
        return Line(text, (NOT_RUN, DASH), (DASH, DASH), (DASH, DASH), paper)
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    speed, memory = (
        figures["dpo_pairs_over_packed_n3"],
        1 - 1 / figures["pairs_extra_memory_over_packed_n3"],
    )
    word = "holds" if speed >= PAPER_SPEED and memory >= PAPER_MEMORY else "does not hold"
    return Line(
        text, (word, DASH), (f"× {speed:.1f}, memory −{memory:.0%}", DASH), (DASH, DASH), paper
    )


def summary(evidence: Evidence) -> Section:
    """The table of claims and one sentence on the primary endpoint."""
    sid, item = PRIMARY["click"]
    found = lines(evidence)
    rows: list[list[Entry]] = []
    for each in found:
        entries: list[Entry] = [each.text]
        for word, shown, seen in zip(each.words, each.effects, each.seen, strict=True):
            entries += [verdict(word) if word != DASH else DASH, shown, seen]
        entries.insert(4, each.agree)
        rows.append([*entries, each.paper])
    told = ["effect (95 %)", "could have seen"]
    head = ["claim", measure(sid), *told, "seeds agree", measure(item), *told, "the paper"]
    note = (
        "Day-8 clicks of simulated traffic; the paper's figures are of table 1 (SID MRR, 1.7B), "
        "except where the line says otherwise: *inside* our interval, *above* or *below* it "
        "(another catalogue, log and model: where it is outside, an effect of that size is not "
        "here, whatever the word). Claims against SFT and SFT-continued are corrected (Holm) over "
        "the methods of the main table, the other registered ones among each other; the lines on "
        "twins and noise have their correction from sections 4 and 5, that on rows from section 9, "
        "and those on sizes and on rows at equal rates stand alone. **Could have seen**: the true "
        "effect for which p falls below α four times in five, after the correction (α / m, planned "
        "ones that are not run included) and for these seeds. The words ask for more: **holds** "
        "and **does not hold** also need every seed to have the sign of the effect, and room above "
        "SFT. Intervals are over queries and are *not* corrected, so an interval without 0 may "
        "still be *cannot tell here*; how many seeds agree says what training's luck does."
    )
    blocks: list[Block] = [
        Text(_primary(evidence)),
        Text(
            f"Of the claims on ranking, at SID level: {_counts([e for e in found if e.ranks])}. Of "
            "those on RDRW's similarity, invalid mass and speed: "
            f"{_counts([e for e in found if not e.ranks])}."
        ),
        Table(head, rows, (1, 5, 8), note),
    ]
    return Section("verdicts", "What holds", blocks, "simulated")


def _counts(some: list[Line]) -> str:
    words = [each.words[0] for each in some]
    verdicts = ("holds", "does not hold", "cannot tell here", NOT_RUN)
    return f"{len(words)}, " + ", ".join(f"{w}: {words.count(w)}" for w in verdicts if w in words)


def _primary(evidence: Evidence) -> str:
    rule = evidence.registration["primary"]
    said = []
    for metric in rule["metrics"]:
        r = (
            claims(evidence, metric).get("beats-sft-continued")
            or against(evidence, rule["against"], metric)[rule["system"]]
        )
        if r.test is None:
            said.append(f"{measure(metric)}: **not run**")
            continue
        t = r.test
        text = (
            f"{measure(metric)}: {signed(t.effect)} ({signed(t.low)} … {signed(t.high)}), "
            f"**{r.word}**"
        )
        if r.word == "cannot tell here":
            text += f" (an effect of {plain_number(r.detectable, 4)} would have been seen)"
        if len(r.seeds) > 1:
            text += f"; {r.agreeing} of {len(r.seeds)} seeds have this sign"
        said.append(text)
    return (
        f"**Primary endpoint**, {row(rule['system'])} − {row(rule['against'])} on day-8 clicks. "
        + ". ".join(said)
        + "."
    )
