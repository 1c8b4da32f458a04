"""The figures of docs/evidence.md: each number names its result in a comment behind it.

A comment is a question of two to four parts, ``A`` and ``B`` being rows such as ``raddpo@n=1``:

    +.0030<!-- difference; A − B; utility.item.ndcg@10; low -->   a plain paired difference
    **holds**<!-- twins; A − B; click.sid.mrr; word -->           in a family of families.py
    .531<!-- probe; A; rdrw/eos_out/auc -->                       a mean over seeds
    .321<!-- level; A; click.item.ndcg@10 -->                     a mean over queries and seeds
    −.098<!-- memory; raddpo; clicks; low -->                     beside the click table
    .5<!-- given -->                                              a setting, or a paper's figure

An effect may carry its interval: ``−.0061 (−.0099 … −.0026)<!-- ladder; A − B; click.sid.mrr -->``.
A comparison that is no plain difference is named by its label in the family. The last part is the
effect, or ``low``, ``high``, ``p``, ``seen`` or ``word``; ``on; judged_test`` asks on another set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.raddpo.report.cells import Evidence, split_name
from experiments.raddpo.report.compare import against, compare, levels
from experiments.raddpo.report.contrast import DAY, Result, difference
from experiments.raddpo.report.families import claims, family, pick
from experiments.raddpo.report.show import of_seeds

PAGE = Path(__file__).resolve().parents[3] / "docs" / "evidence.md"
WORDS = ("cannot tell here", "does not hold", "holds", "not run")
NUMBER = r"[+−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
#: A number, an effect with its interval, or a verdict, with the question behind it.
TIED = re.compile(
    rf"(?P<shown>{NUMBER}|{'|'.join(WORDS)})"
    rf"(?: \((?P<low>{NUMBER}) … (?P<high>{NUMBER})\))?"
    r"(?P<unit> ?%?)(?P<bold>(?:\*\*)?)<!-- (?P<question>[^>]*?) -->"
)
#: What must not stand in the prose without a question: numbers with decimals or a sign.
UNTIED = re.compile(r"[+−]\d+|[+−]?\d*\.\d+")


def answer(evidence: Evidence, question: str) -> float | str:
    """Return the figure or the verdict that a comment asks for."""
    parts = [part.strip() for part in question.split(";")]
    set_name = DAY
    if "on" in parts:
        at = parts.index("on")
        set_name = parts[at + 1]
        del parts[at : at + 2]
    kind, *rest = parts
    special = SPECIAL.get(kind)
    if special is not None:
        return special(evidence, *rest)
    sides, metric, *last = rest
    result = _result(evidence, kind, sides, metric, set_name)
    return _part(result, last[0] if last else "effect")


def _result(evidence: Evidence, kind: str, sides: str, metric: str, set_name: str) -> Result:
    """Return a result by the name of its family and what it compares."""
    if kind == "claim":
        return claims(evidence, metric)[sides]
    rows = re.fullmatch(r"(\S+) − (\S+)", sides)
    if rows is None:
        return family(evidence, kind, metric, set_name)[sides]
    a, b = (split_name(side) for side in rows.groups())
    if kind == "difference":
        asked = difference(
            a[0], b[0], metric, variant=a[1], b_variant=b[1], set_name=set_name, across=True
        )
        return compare(evidence, [asked])[0]
    if kind == "methods":
        return against(evidence, b[0], metric)[a[0]]
    return pick(family(evidence, kind, metric, set_name).values(), a, b)


def _part(result: Result, part: str) -> float | str:
    if part == "word":
        return result.word
    if part == "seeds":
        return float(len(result.seeds))
    if result.test is None:
        raise ValueError(f"{result.contrast} was not run")
    values: dict[str, float] = {
        "effect": result.test.effect,
        "low": result.test.low,
        "high": result.test.high,
        "p": result.p,
        "seen": result.detectable,
    }
    return values[part]


# ---------------------------------------------------------------------- other questions


def _level(evidence: Evidence, row: str, metric: str, set_name: str = DAY) -> float:
    system, variant = split_name(row)
    return levels(evidence, system, [metric], variant=variant, set_name=set_name)[metric].mean


def _probe(evidence: Evidence, row: str, name: str, end: str = "mean") -> float:
    """A figure of the mechanisms: its mean over seeds, or the least or greatest seed."""
    system, variant = split_name(row)
    runs = evidence.runs(system, variant)
    values = of_seeds(runs, name) or of_seeds(runs, name, "train")
    ends: dict[str, Callable[[list[float]], float]] = {"least": min, "greatest": max}
    return ends[end](values) if end in ends else sum(values) / len(values)


def _relevant(evidence: Evidence, row: str) -> float:
    """The share of relevant items among the negatives that a row was trained on."""
    runs = evidence.runs(*split_name(row))
    values = [float(cell.facts["lists"]["relevant_share"]) for cell in runs.values()]
    return sum(values) / len(values)


def _gain_of_sft(evidence: Evidence, end: str) -> float:
    """How much SFT's validation R@8 still rose in its last interval, over seeds."""
    rises = []
    for cell in evidence.runs("sft").values():
        *_, before, last = (float(point["recall@8"]) for point in cell.train["valid"])
        rises.append(last - before)
    return min(rises) if end == "least" else max(rises)


def _cells(evidence: Evidence, what: str) -> float:
    counts = {"run": evidence.cells, "planned": evidence.planned, "void": evidence.void}
    return float(len(counts[what]))


def _memory(evidence: Evidence, system: str, target: str, part: str = "minus_memory") -> Any:
    """What the click table does to a row of the evidence (experiments/answer/answer.py)."""
    kept = _results(evidence, "answer")["verdicts_that_memory_turns"]
    (found,) = (t for t in kept if (t["system"], t["target"]) == (system, target))
    return found["verdict_better_than_memory" if part == "word" else part]


def _answer(evidence: Evidence, name: str) -> float:
    return float(_results(evidence, "answer")["figures"][name])


def _lab(evidence: Evidence, name: str) -> float:
    """A figure of the prefix lab (experiments/lab)."""
    return float(_results(evidence, "prefix_lab")["figures"][name])


def _speed(evidence: Evidence, name: str) -> float:
    """The packed step against DPO by pairs (benchmarks/preference_step.py)."""
    path = evidence.results.parents[2] / "benchmarks" / "results" / "preference_step.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["figures"][name])


def _results(evidence: Evidence, name: str) -> dict[str, Any]:
    return json.loads((evidence.results.parent / f"{name}.json").read_text(encoding="utf-8"))


SPECIAL: dict[str, Callable[..., float | str]] = {
    "level": _level,
    "probe": _probe,
    "relevant": _relevant,
    "plateau": _gain_of_sft,
    "cells": _cells,
    "memory": _memory,
    "answer": _answer,
    "lab": _lab,
    "speed": _speed,
}


# ---------------------------------------------------------------------- the page


def shown(value: float | str, before: str, unit: str) -> str:
    """Return a value in the form that its author gave it: sign, decimals, per cent."""
    if isinstance(value, str):
        return value
    value *= 100 if "%" in unit else 1
    sign = "+" if before.startswith(("+", "−")) else ""
    decimals = len(before.partition(".")[2])
    text = f"{value:{sign},.{decimals}f}".replace("-", "−")
    bare = text.lstrip("+−")
    return text.replace("0.", ".", 1) if bare.startswith("0.") else text


def fill(page: str, evidence: Evidence) -> str:
    """Return the page with every tied figure and verdict anew."""

    def again(match: re.Match[str]) -> str:
        if match["question"] == "given":
            return match[0]
        question = match["question"]
        value = shown(answer(evidence, question), match["shown"], match["unit"])
        if match["low"]:
            ends = (
                shown(answer(evidence, f"{question}; {end}"), match[end], "")
                for end in ("low", "high")
            )
            value += " ({} … {})".format(*ends)
        return f"{value}{match['unit']}{match['bold']}<!-- {question} -->"

    return TIED.sub(again, page)


def untied(page: str) -> list[str]:
    """Return the numbers of the prose that name no result; code and links are left out."""
    page = TIED.sub("", page)
    page = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->", "", page, flags=re.DOTALL)
    page = re.sub(r"arXiv \d+\.\d+|nDCG@\d+|R@\d+", "", page)
    return UNTIED.findall(page)
