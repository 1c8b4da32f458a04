"""The page: its head and its sections, in the order of the protocol."""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.document import Block, Page, Text
from benchmarks.evidence.report.headline import differences, main_table
from benchmarks.evidence.report.headroom import headroom
from benchmarks.evidence.report.inside import denoising, hallucination, mechanisms
from benchmarks.evidence.report.listing import listing, provenance, tuning
from benchmarks.evidence.report.parts import parts
from benchmarks.evidence.report.short import short
from benchmarks.evidence.report.summary import summary
from benchmarks.evidence.report.sweeps import sweeps
from benchmarks.evidence.report.unseen import unseen
from benchmarks.evidence.report.why import why


def page(evidence: Evidence) -> Page:
    """Every section, headroom first (docs/evaluation.md); what was not run says so."""
    sections = [
        headroom(evidence),
        summary(evidence),
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
    number = next(i for i, section in enumerate(sections) if section.at == "unseen")
    return Page("Evidence for RAD-DPO", _lead(evidence, number), provenance(evidence), sections)


def _lead(evidence: Evidence, unseen_number: int) -> list[Block]:
    rules, bed = evidence.registration, evidence.registration["bed"]
    settings, requests = bed["settings"], bed["requests"]
    share = float(settings["align"].get("item_share", 0.0))
    types = evidence.device_types
    mixed = [
        Text(
            f"**Cells ran on different types of device ({', '.join(types)})**: their arithmetic "
            "differs, and a comparison across them carries that too."
        )
    ]
    return [
        *(mixed if len(types) > 1 else []),
        *short(evidence),
        Text(
            "Does RAD-DPO (arXiv 2602.23964) do what it says, on data where the truth is known? "
            "Every method starts from the same SFT checkpoint of its seed and trains for the same "
            "number of steps; learning rate and β were chosen on day 7 with the same number of "
            "runs for each. All see the same lists, except rows that are about the lists: injected "
            "noise, weights from the truth, skip-above, inverse propensity and the lab's corners."
        ),
        Text(
            "**Simulated** sections compare methods on traffic of a simulator with known truth, "
            "over the real products of the embedded sample; they say nothing about real shoppers. "
            f"**Real** are the judged queries of section {unseen_number} alone. Registered in "
            "`benchmarks/evidence/registration.yaml` before the first cell of the test day: the "
            "endpoint, the claims and expected signs, the tuning grid (changed once, as said "
            "below), and the settings of the simulator, the model, SFT and alignment; cells of "
            "another registration or simulator are void and left out. What a row varies, the "
            "tuning of dense retrieval, model sizes, the lab's corners and what is probed stand "
            "in `benchmarks/evidence/plan.py`, and as `spec` in each cell's JSON; a cell of "
            "another spec than the plan's is void too."
        ),
        *(
            Text(
                f"**Amended** before {each['before']}: {each['what']}. Why: {each['why'].strip()}."
            )
            for each in rules.get("amendments", ())
        ),
        Text(
            f"The bed: codebooks {'/'.join(str(k) for k in bed['codebooks'])}; "
            f"{settings['lm']['layers']} layers; SFT of {settings['sft']['steps']} steps, "
            f"alignment of {settings['align']['steps']} steps of {settings['align']['batch_size']} "
            f"rows (lists with at most {settings['preference']['max_negatives']} "
            f"negatives{f', {share:.0%} item text' if share else ''}); day 8: {requests['click']} "
            f"requests with clicks, {requests['order']} with orders, {requests['random']} with "
            f"clicks in the randomised bucket. Simulator `{rules['simulator']['hash'][:12]}`, "
            f"lexicon `{rules['simulator']['lexicon'][:12]}`."
        ),
        Text(
            "Again: `python -m benchmarks.evidence core` (or `full`); it goes on where it was "
            "interrupted. Verdicts are **holds**, **does not hold** and **cannot tell here**, each "
            "with the effect that the test could have seen. What is wrong or open in the papers "
            "themselves: [errata](errata.md)."
        ),
    ]
