"""The page of a bake-off, written from ``results.json`` alone: no figure and no verdict on it is typed in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidar.artifacts import replace_file
from sidar.evaluate.document import Page, Section, Text, to_html, to_markdown
from sidar.pipeline.bakeoff import page_cqsid, page_decoding, page_ids, page_recall, page_tail
from sidar.pipeline.bakeoff.caveats import caveats
from sidar.pipeline.bakeoff.page_answer import answer, entrants_section, reading

Results = Mapping[str, Any]


def page(results: Results, *, prefix: str = "", written_by: str = "sidar compare-sids") -> Page:
    """All sections; ``prefix`` begins the names of the pictures' files."""
    model, catalogue, seeds = results["model"], results["catalogue"], results["seeds"]
    sections: list[Section] = [
        answer(results, prefix),
        entrants_section(results),
        page_ids.section(results, prefix),
        page_recall.section(results, prefix),
        page_recall.found(results),
        page_recall.invalid(results),
        page_decoding.section(results, prefix),
        page_tail.controls(results),
        page_cqsid.section(results),
        page_tail.section(results),
        page_tail.figures(results),
        reading(results),
    ]
    steps = f"{model['steps']} of {model['batch_size']}"
    facts = {
        "items": f"{catalogue['items']:,}",
        "methods": str(len(results["methods"])),
        "seeds": ", ".join(map(str, seeds)),
        "model": f"{model['layers']} layers of {model['hidden']}"
        if model["backbone"] == "embedded"
        else model["backbone"],
        "SFT steps": steps,
        "measured after": model["stage"],
        "bits per item": f"{results['methods'][results['reference']]['bits']:.1f}",
        "bootstrap": f"{results['bootstrap']:,}",
    }
    if catalogue["origin"] == "simulated":
        note = (
            "The log is **simulated**: it compares methods under stated conditions and says nothing of real shoppers. "
        )
    else:
        note = ""
    lead = [Text(results["sentence"]), *map(Text, caveats(results)), Text(note + _power(results))]
    return Page("Which Semantic IDs are best for this catalogue?", lead, facts, sections, written_by)


def _power(results: Results) -> str:
    """How many seeds stand behind the page."""
    n = len(results["seeds"])
    if n == 1:
        return (
            "One seed: intervals and tests know the noise of the queries, not that of training another time; a "
            "difference near the edge may turn with the next seed (`--seeds 0,1,2`)."
        )
    return f"{n} seeds of tokenizer and training; intervals and tests resample queries, all seeds of a query together."


def write_page(folder: Path, results: Results) -> None:
    """``page.md``, ``page.html`` and ``images/`` into ``folder``."""
    whole = page(results)
    (folder / "images").mkdir(exist_ok=True)
    for picture in whole.pictures():
        replace_file(folder / "images" / picture.file, picture.standalone() + "\n")
    replace_file(folder / "page.md", to_markdown(whole))
    replace_file(folder / "page.html", to_html(whole))
