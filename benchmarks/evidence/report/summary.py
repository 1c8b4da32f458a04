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
from benchmarks.evidence.report.headline import interaction
from benchmarks.evidence.report.names import PAPER_MEMORY, PAPER_SIZES, PAPER_SPEED, PRIMARY, measure, row
from benchmarks.evidence.report.show import DASH, effect, of_seeds, plain_number, signed, verdict


@cache
def claims(evidence: Evidence, metric: str) -> dict[str, Result]:
    """{id: result} of the registered claims: those against SFT or SFT-continued are corrected with the main table's
    methods, the others among themselves."""
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
    """Neighbours in the paper's order of harm: each less the one before it, on exact invalid mass."""
    names = evidence.registration["hallucination_order"]
    return compare(evidence, [difference(b, a, "invalid.mass") for a, b in pairwise(names)])


def at_each(evidence: Evidence, axis: str, a: str, b: str, metric: str) -> list[tuple[str, Result]]:
    """[(value, a − b at it)] over the base setting and every planned value of ``axis``; Holm over them."""
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


def _line(text: str, results: list[Result], paper: str) -> Line:
    return Line(
        text,
        (results[0].word, results[1].word),
        (effect(results[0]), effect(results[1])),
        (plain_number(results[0].detectable, 4), plain_number(results[1].detectable, 4)),
        paper,
        f"{results[0].agreeing} of {len(results[0].seeds)}" if results[0].seeds else DASH,
    )


def lines(evidence: Evidence) -> list[Line]:
    """All claims: the registered ones, then those that need more than one comparison."""
    sid, item = PRIMARY["click"]
    out = []
    for claim in evidence.registration["claims"]:
        paper = signed(float(claim["paper"])) if claim.get("paper") is not None else "not reported"
        out.append(_line(claim["text"], [claims(evidence, m)[claim["id"]] for m in (sid, item)], paper))
    out.append(_denoises(evidence))
    noisy = evidence.variants("noise", "raddpo-no-rdrw")
    if noisy:
        results = [
            r for m in (sid, item) for r in compare(evidence, [interaction("raddpo", "raddpo-no-rdrw", m, noisy[-1])])
        ]
        share = float(noisy[-1].partition("=")[2])
        out.append(
            _line(
                f"RDRW gains more with {share:.0%} of the negatives made good items",
                results,
                "not reported",
            )
        )
    steps = order(evidence)
    names = " < ".join(row(s).partition(" (")[0] for s in evidence.registration["hallucination_order"])
    out.append(_many(f"Invalid mass: {names}", steps, ".0575 < .0652 < .0685 < .0708 < .0838", "least step"))
    sizes = [r for _, r in at_each(evidence, "size", "raddpo", START, sid)]
    items = [r for _, r in at_each(evidence, "size", "raddpo", START, item)]
    said = ", ".join(f"{size} {signed(gain)}" for size, gain in PAPER_SIZES.items())
    out.append(_many("RAD-DPO beats SFT at every size of the model", sizes, said, "least", items))
    out.append(_data(evidence))
    out.append(_speed(evidence))
    return out


def _many(text: str, results: list[Result], paper: str, which: str, items: list[Result] | None = None) -> Line:
    """A claim that holds only if every one of ``results`` does."""

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
        word = "holds" if min(low) > 0.5 else "does not hold" if max(high) < 0.5 else "cannot tell here"
        shown = f"AUC {plain_number(sum(mean) / len(mean))} ({plain_number(min(low))}–{plain_number(max(high))})"
        if within := of_seeds(runs, f"{name}_within"):
            shown += f", inside a list {plain_number(sum(within) / len(within))}"
    text = "RDRW's similarity finds passed-over good items (AUC above .5)"
    return Line(text, (word, DASH), (shown, DASH), (DASH, DASH), "not reported")


def _data(evidence: Evidence) -> Line:
    """RAD-DPO's gain over SFT continued on the most rows, less that on the fewest: SFT alone gains with data too."""
    axis = [v for v in evidence.variants("lists", "raddpo") if evidence.runs("raddpo", v) and evidence.runs(CONTROL, v)]
    results = [Result(difference("raddpo", "raddpo", m, variant="lists=?")) for m in PRIMARY["click"]]
    text = "RAD-DPO's gain over SFT continued grows with the rows of alignment"
    if len(axis) > 1:
        results = []
        for m in PRIMARY["click"]:
            most, fewest = ([Side("raddpo", m, axis[i]), Side(CONTROL, m, axis[i])] for i in (-1, 0))
            grows = Contrast((most[0], fewest[1]), (most[1], fewest[0]), across=True)
            results += compare(evidence, [grows])
        text += f" ({axis[-1].partition('=')[2]} against {axis[0].partition('=')[2]})"
    return _line(text, results, "a figure without numbers (10–50M)")


def _speed(evidence: Evidence) -> Line:
    """The packed step against DPO by pairs, from its own benchmark."""
    path = evidence.results.parent / "preference_step.json"
    text = "The packed step against DPO by pairs: × 3 speed, half the memory (CPU, n = 3)"
    paper = f"× {PAPER_SPEED:g}, memory −{PAPER_MEMORY:.0%}"
    if not path.is_file():
        return Line(text, (NOT_RUN, DASH), (DASH, DASH), (DASH, DASH), paper)
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    speed, memory = figures["dpo_pairs_over_packed_n3"], 1 - 1 / figures["pairs_extra_memory_over_packed_n3"]
    word = "holds" if speed >= PAPER_SPEED and memory >= PAPER_MEMORY else "does not hold"
    return Line(text, (word, DASH), (f"× {speed:.1f}, memory −{memory:.0%}", DASH), (DASH, DASH), paper)


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
    words = [each.words[0] for each in found]
    counts = [f"{w}: {words.count(w)}" for w in ("holds", "does not hold", "cannot tell here", NOT_RUN) if w in words]
    note = (
        "Day-8 clicks of simulated traffic; the paper's figures are of table 1 (SID MRR, 1.7B), except where the "
        "line says otherwise. Claims against SFT and SFT-continued are corrected (Holm) over the methods of the main "
        "table, the other comparisons among each other. **Could have seen**: the true effect found four times in "
        "five after the correction for its family (α / m, planned ones that are not run included). **Holds** "
        "and **does not "
        "hold** also need every seed to have the sign of the effect, and room above SFT. Intervals are over "
        "queries, for "
        "these seeds; how many seeds agree says what training's luck does."
    )
    blocks: list[Block] = [
        Text(_primary(evidence)),
        Text(f"{len(words)} claims at SID level. {'; '.join(counts).capitalize()}."),
        Table(head, rows, (1, 5, 8), note),
    ]
    return Section("verdicts", "What holds", blocks, "simulated")


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
        text = f"{measure(metric)}: {signed(t.effect)} ({signed(t.low)} … {signed(t.high)}), **{r.word}**"
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
