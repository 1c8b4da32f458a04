"""The page: its head and its sections, in the order of the protocol."""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.document import Block, Page, Text
from benchmarks.evidence.report.headline import differences, headroom, main_table
from benchmarks.evidence.report.inside import denoising, hallucination, mechanisms
from benchmarks.evidence.report.listing import listing, provenance, tuning
from benchmarks.evidence.report.parts import parts, sweeps
from benchmarks.evidence.report.summary import summary
from benchmarks.evidence.report.unseen import unseen
from benchmarks.evidence.report.why import why

#: Number of the section on unseen queries, as the page counts (from 0).
UNSEEN = 10


def page(evidence: Evidence) -> Page:
    """Every section; what was not run says so."""
    sections = [
        summary(evidence),
        headroom(evidence),
        main_table(evidence),
        differences(evidence),
        parts(evidence),
        denoising(evidence),
        hallucination(evidence),
        mechanisms(evidence),
        why(evidence),
        sweeps(evidence),
        unseen(evidence),
        tuning(evidence),
        listing(evidence),
    ]
    return Page("Evidence for RAD-DPO", _lead(evidence), provenance(evidence), sections)


def _lead(evidence: Evidence) -> list[Block]:
    rules, bed = evidence.registration, evidence.registration["bed"]
    settings, requests = bed["settings"], bed["requests"]
    return [
        Text(
            "Does RAD-DPO (arXiv 2602.23964) do what it says, on data where the truth is known? Every method starts "
            "from the same SFT checkpoint of its seed and sees the same lists for the same number of steps; learning "
            "rate and β were chosen on day 7 with the same number of runs for each."
        ),
        Text(
            "**Simulated** sections compare methods on traffic of a simulator with known truth, over the real "
            "products of the embedded sample; they say nothing about real shoppers. **Real** are the judged queries "
            f"of section {UNSEEN} alone. The endpoint, the expected signs and every setting were registered in "
            "`benchmarks/evidence/registration.yaml` before the first run; cells of another registration or "
            "simulator are void and left out."
        ),
        *(
            Text(f"**Amended** before {each['before']}: {each['what']}. Why: {each['why'].strip()}.")
            for each in rules.get("amendments", ())
        ),
        Text(
            f"The bed: codebooks {'/'.join(str(k) for k in bed['codebooks'])}; {settings['lm']['layers']} layers; SFT "
            f"of {settings['sft']['steps']} steps, alignment of {settings['align']['steps']} steps of "
            f"{settings['align']['batch_size']} lists with at most {settings['preference']['max_negatives']} "
            f"negatives; day 8: {requests['click']} requests with clicks, {requests['order']} with orders, "
            f"{requests['random']} with clicks in the randomised bucket. Simulator "
            f"`{rules['simulator']['hash'][:12]}`, lexicon `{rules['simulator']['lexicon'][:12]}`."
        ),
        Text(
            "Again: `python -m benchmarks.evidence core` (or `full`); it goes on where it was interrupted. Verdicts "
            "are **holds**, **does not hold** and **cannot tell here**, each with the effect that the test could "
            "have seen. What is wrong or open in the papers themselves: [errata](errata.md)."
        ),
    ]
