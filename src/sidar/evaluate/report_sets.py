"""The report's section of one evaluation set: pictures, the table, tests, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sidar.evaluate.charts import Series, intervals, legend, lines
from sidar.evaluate.scorer import CURVE, SID_CURVE
from sidar.evaluate.table import BLOCKS, ORIGIN, about, interval, number, sampled

Scores = Mapping[str, Any]

KIND_ORDER = ("baseline", "generative", "fusion", "oracle")
PRIMARY = ("item/ndcg@10", "sid/mrr")
HEADERS = {m: header for columns in BLOCKS.values() for m, header in columns.items()}
NAMES = {m: f"{header} ({title.lower()})" for title, columns in BLOCKS.items() for m, header in columns.items()}


def colours(scores: Scores) -> dict[str, int]:
    """A series number per system, the same in every picture of the report."""
    names = dict.fromkeys(system for facts in scores["sets"].values() for system in facts["systems"])
    return {name: i for i, name in enumerate(sorted(names, key=lambda n: KIND_ORDER.index(kind_of(scores, n))))}


def kind_of(scores: Scores, system: str) -> str:
    """baseline, generative, fusion or oracle."""
    return str(scores["kinds"].get(system, "baseline"))


def label(system: str) -> str:
    """A system's name for HTML, breakable after each part of a fusion."""
    return escape(system).replace("+", "+<wbr>")


def in_order(scores: Scores, systems: Sequence[str]) -> list[str]:
    """Systems by kind; the order they were scored in inside a kind."""
    return sorted(systems, key=lambda name: KIND_ORDER.index(kind_of(scores, name)))


def set_section(scores: Scores, name: str, colour: Mapping[str, int]) -> str:
    """The whole section of set ``name``."""
    facts = scores["sets"][name]
    mark = f'<span class="mark {escape(facts["origin"])}">{escape(ORIGIN.get(facts["origin"], facts["origin"]))}</span>'
    parts = [
        f'<section id="set-{escape(name)}"><div class="title"><h2>{escape(name)}</h2>{mark}</div>',
        f'<p class="soft">{escape(about(facts).split(", ", 1)[1])}.{_sid_note(facts)}{_leak_note(facts)}</p>',
        _pictures(scores, facts, colour),
        _table(scores, facts, ("Items", "Semantic IDs")),
        '<p class="soft">Mean over queries; below it the 95 % bootstrap interval, clustered by query. Bold: the '
        "highest of its column, the oracle aside; whether a difference is more than noise is what the tests below say. "
        "<i>items</i>: mean number of items returned.</p>",
    ]
    if extra := _table(scores, facts, ("Invalid output", "Items, random order inside an SID")):
        parts += ["<h3>Generative systems: invalid output, and no luck inside an SID</h3>", extra]
        parts.append(
            f'<p class="soft">mass: probability on what is no product, exact over the index{_chance(scores)}. free@k: '
            "share of invalid outputs among the first k of a free beam of 128; at 128 mostly tail beams. Right: the "
            f"expected value if the items inside an SID shared it equally. {escape(sampled(facts))}</p>"
        )
    parts += [_tests(scores, name), _slices(scores, facts), _coverage(scores, facts, name), "</section>"]
    return "\n".join(part for part in parts if part)


def _chance(scores: Scores) -> str:
    """What a model that knows nothing would have beside the invalid mass (protocol.md §5)."""
    density = (scores.get("sid_usage") or {}).get("density")
    if density is None:
        return ""
    return f" (of all SIDs that can be written, {density:.2%} are products: a uniform model has {1 - density:.4f})"


def _sid_note(facts: Mapping[str, Any]) -> str:
    lost = facts.get("items_without_sid")
    return f" {lost:,} relevant judgments are of items without an SID: no SID ranking can reach them." if lost else ""


def _leak_note(facts: Mapping[str, Any]) -> str:
    seen = facts.get("trained_on")
    return f" <strong>{seen:,} of the queries were not held out of training (data.held_out).</strong>" if seen else ""


def _pictures(scores: Scores, facts: Mapping[str, Any], colour: Mapping[str, int]) -> str:
    systems = in_order(scores, list(facts["systems"]))
    out = []
    for measure in PRIMARY:
        rows = [
            (name, cell["mean"], cell["low"], cell["high"], colour[name])
            for name in systems
            if (cell := facts["systems"][name].get(measure))
        ]
        if rows:
            title = f"{escape(NAMES[measure])} <span>mean and 95 % interval</span>"
            out.append(f"<figure><figcaption>{title}</figcaption>{intervals(rows, label=NAMES[measure])}</figure>")
    for level, cutoffs in (("item", CURVE), ("sid", SID_CURVE)):
        curves = [
            Series(name, cutoffs, [_mean(facts, name, f"{level}/recall@{k}") for k in cutoffs], colour[name])
            for name in systems
        ]
        if picture := lines(curves, x_label="k", y_label="recall@k", log_x=True, y_from_zero=True, x_ticks=cutoffs):
            title = "Recall of items" if level == "item" else "Recall of Semantic IDs"
            keys = legend([(each.name, each.colour) for each in curves])
            caption = f"<figcaption>{title} <span>k on a log scale</span></figcaption>"
            out.append(f"<figure>{caption}{picture}{keys}</figure>")
    return f'<div class="pictures">{"".join(out)}</div>'


def _mean(facts: Mapping[str, Any], system: str, measure: str) -> float:
    return float(facts["systems"][system].get(measure, {}).get("mean", float("nan")))


def _table(scores: Scores, facts: Mapping[str, Any], titles: Sequence[str]) -> str:
    """One wide table of the blocks ``titles``; systems that have none of their measures are left out."""
    cells = facts["systems"]
    blocks = {t: [m for m in BLOCKS[t] if any(m in row for row in cells.values())] for t in titles}
    blocks = {title: measures for title, measures in blocks.items() if measures}
    measures = [m for some in blocks.values() for m in some]
    systems = [name for name in in_order(scores, list(cells)) if any(m in cells[name] for m in measures)]
    if not systems:
        return ""
    first = {some[0] for some in blocks.values()}
    best = {
        m: max((cells[s][m]["mean"] for s in systems if m in cells[s] and kind_of(scores, s) != "oracle"), default=0)
        for m in measures
        if m != "items/returned" and not m.startswith("invalid/")
    }
    head = "<tr><th></th>" + "".join(
        f'<th class="block" colspan="{len(some)}">{escape(title)}{_queries(facts, some)}</th>'
        for title, some in blocks.items()
    )
    head += "</tr><tr><th class='text'>system</th>"
    for title, some in blocks.items():
        head += "".join(f'<th class="{"first-of-block" if m in first else ""}">{BLOCKS[title][m]}</th>' for m in some)
    rows, last = [], ""
    for name in systems:
        kind = kind_of(scores, name)
        row = "".join(_cell(m, cells[name].get(m), best.get(m), m in first) for m in measures)
        rows.append(f'<tr class="{"kind" if kind != last else ""}"><th>{label(name)}</th>{row}</tr>')
        last = kind
    return f'<div class="scroll"><table><thead>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _queries(facts: Mapping[str, Any], measures: Sequence[str]) -> str:
    """`` (64 queries)`` where a block was measured on a part of the set."""
    n = max(int(row[m]["n"]) for row in facts["systems"].values() for m in measures if m in row)
    return f" <small>({n:,} queries)</small>" if n < facts["queries"] else ""


def _cell(measure: str, cell: Mapping[str, float] | None, best: float | None, first: bool) -> str:
    names = ["first-of-block"] if first else []
    if cell is None:
        return f'<td class="{" ".join(names)}"></td>'
    if best is not None and cell["mean"] == best:
        names.append("best")
    if measure == "items/returned":
        text = number(cell["mean"], count=True)
    else:
        text = f"{number(cell['mean'])}<small>{interval(cell)}</small>"
    return f'<td class="{" ".join(names)}">{text}</td>'


def _tests(scores: Scores, name: str) -> str:
    tests = [test for test in scores["tests"] if test["set"] == name]
    if not tests:
        return ""
    primary = [test for test in tests if test["measure"] in PRIMARY]
    rest = [test for test in tests if test["measure"] not in PRIMARY]
    out = [
        "<h3>Paired tests</h3>",
        '<p class="soft">Randomisation tests that swap systems per query; p after Holm over the pairs of one question. '
        "<i>detectable</i>: the smallest true effect that this test would see at 80 % power. A verdict says whether "
        "<i>a is better than b</i>.</p>",
        _test_table(primary),
    ]
    if rest:
        out.append(f"<details><summary>{len(rest)} more, on other measures</summary>{_test_table(rest)}</details>")
    return "".join(out)


def _test_table(tests: Sequence[Mapping[str, Any]]) -> str:
    kinds = {"holds": "holds", "does not hold": "fails"}
    rows, last = [], ""
    for t in tests:
        if t["question"] != last:
            rows.append(f'<tr class="kind"><td class="text" colspan="8"><b>{escape(t["question"])}</b></td></tr>')
            last = t["question"]
        rows.append(
            f"<tr><th>{label(t['a'])} − {label(t['b'])}</th><td class='text'>{escape(NAMES[t['measure']])}</td>"
            f"<td>{t['effect']:+.4f}</td><td>{t['low']:+.4f} to {t['high']:+.4f}</td><td>{t['p']:.4f}</td>"
            f"<td>{t['p_holm']:.4f}</td><td>{t['detectable']:.4f}</td>"
            f"<td class='text'><span class='mark {kinds.get(t['verdict'], '')}'>{escape(t['verdict'])}</span></td></tr>"
        )
    head = "".join(
        f'<th class="{kind}">{text}</th>'
        for text, kind in (
            ("a − b", "text"),
            ("measure", "text"),
            ("effect", ""),
            ("95 % interval", ""),
            ("p", ""),
            ("p (Holm)", ""),
            ("detectable", ""),
            ("verdict", "text"),
        )
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _slices(scores: Scores, facts: Mapping[str, Any]) -> str:
    """One table per kind of slice: items by popularity class, queries by label."""
    out = []
    for kind, labels in facts["slices"].items():
        measures = ["item/recall@100", "items/returned"] if kind == "items" else ["item/ndcg@10", "item/recall@100"]
        systems = in_order(scores, list(dict.fromkeys(s for each in labels.values() for s in each["systems"])))
        head = "<tr><th class='text'>system</th>" + "".join(
            f'<th class="first-of-block">{escape(word)}<small> ({each["n"]:,})</small><br>{HEADERS[m]}</th>'
            for word, each in labels.items()
            for m in measures
        )
        rows = "".join(
            f"<tr><th>{label(name)}</th>"
            + "".join(
                f"<td>{number(each['systems'].get(name, {}).get(m, float('nan')), count=m == 'items/returned')}</td>"
                for each in labels.values()
                for m in measures
            )
            + "</tr>"
            for name in systems
        )
        if kind == "items":
            title, note = (
                "Items by popularity",
                "Recall of the relevant items of each class, over the queries (number in brackets) that have any. "
                "Beside it how many items of the class came back per query (the papers' Ret-Per, as we read the name). "
                "Classes by clicks of the training days: head holds half of them, torso up to 90 %, cold none.",
            )
        else:
            title, note = f"Queries by {kind}", "Number of queries in brackets."
        out.append(
            f'<h3>{escape(title)}</h3><div class="scroll"><table><thead>{head}</tr></thead><tbody>{rows}</tbody>'
        )
        out.append(f'</table></div><p class="soft">{escape(note)}</p>')
    return "".join(out)


def _coverage(scores: Scores, facts: Mapping[str, Any], name: str) -> str:
    """Catalogue coverage, and how the fusions were weighted for this set."""
    rows = "".join(
        f"<tr><th>{label(system)}</th>"
        + "".join(f"<td>{share:.1%}</td>" for share in facts["coverage"][system].values())
        + f"<td class='text'>{escape(_how(scores, system, name))}</td></tr>"
        for system in in_order(scores, list(facts["coverage"]))
    )
    cutoffs = list(dict.fromkeys(k for shares in facts["coverage"].values() for k in shares))
    head = "".join(f"<th>shown {escape(k)}</th>" for k in cutoffs)
    return (
        "<details><summary>Catalogue coverage, settings, fusion weights</summary><div class='scroll'><table><thead><tr>"
        f"<th class='text'>system</th>{head}<th class='text'>how</th></tr></thead><tbody>{rows}</tbody></table>"
        "</div><p class='soft'>Share of the live catalogue in the top k of any query of this set.</p></details>"
    )


def _how(scores: Scores, system: str, name: str) -> str:
    fusion = scores["fusions"].get(system)
    if fusion is None:
        return str(scores["about"].get(system, ""))
    fact = fusion["sets"][name]
    text = ", ".join(f"{part} {weight:g}" for part, weight in zip(fusion["parts"], fact["weights"], strict=True))
    how = f"chosen on the validation sets, nDCG@10 {fact['value']:.3f}" if fact["tuned"] else "equal, not tuned"
    return f"{fact['method']}: {text} ({how})"
