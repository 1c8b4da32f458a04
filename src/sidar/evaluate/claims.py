"""The comparisons that a report must make, each with its effect, interval, power and verdict
(docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from sidar.evaluate.perquery import PerQuery
from sidar.evaluate.stats import holm, paired_tests, verdict
from sidar.evaluate.systems import dense_row
from sidar.types import Json

#: The model that every aligned model is judged against.
SFT = "sft"
#: SFT continued on the preference lists: what longer training alone brings (docs/evaluation.md).
CONTROL = "sft-continued"
#: The served answer, the row without its generative channel, and the click table.
ANSWER, WITHOUT, MEMORY = "answer", "answer-without-lm", "memory"
MEASURES = ("item/ndcg@10", "item/recall@100", "item/mrr", "sid/mrr")


def pairs(
    generative: Sequence[str],
    fusions: Mapping[str, Sequence[str]],
    systems: Collection[str] = (),
    channels: Collection[str] = (),
) -> dict[str, list[tuple[str, str]]]:
    """``{question: [(a, b), …]}``: is a better than b? Of the dense rows those that ``systems``
    has; ``channels`` are those of plug-ins.
    """
    dense, dense_tuned = (dense_row(name, systems) for name in ("dense", "dense-tuned"))
    asked: dict[str, list[tuple[str, str]]] = {}
    if SFT in generative:
        asked["Does alignment improve on SFT?"] = [
            (name, SFT) for name in generative if name != SFT
        ]
    if CONTROL in generative:
        others = [name for name in generative if name not in (SFT, CONTROL)]
        asked["Does the preference loss improve on SFT continued on the same lists?"] = [
            (n, CONTROL) for n in others
        ]
    by_parts = {tuple(parts): name for name, parts in fusions.items()}
    for question, added in (
        ("Does the generative channel improve the fusion?", generative),
        ("Does a channel of your own improve the fusion?", channels),
    ):
        asked[question] = [
            (name, base)
            for name, parts in fusions.items()
            if len(parts) > 1 and parts[-1] in added and (base := by_parts.get(tuple(parts[:-1])))
        ]
    asked["Is the generative channel better than zero-shot dense retrieval?"] = [
        (name, dense) for name in generative
    ]
    # "better than dense" is claimed against the fine-tuned encoder only (docs/evaluation.md), in
    # runs that have one
    tuned = [(name, dense_tuned) for name in generative]
    asked["Is the generative channel better than dense retrieval tuned on the same rows?"] = tuned
    # better than what a shop already has is claimed of the answer alone, and against the memory
    if ANSWER in systems:
        inputs = [name for name in systems if name not in (ANSWER, MEMORY, WITHOUT, "topic oracle")]
        asked["Is the answer better than the memory of what was chosen?"] = [(ANSWER, MEMORY)]
        asked["Does the generative channel improve the answer?"] = [(ANSWER, WITHOUT)]
        asked["Is the answer better than the other rows?"] = [(ANSWER, name) for name in inputs]
    return {question: some for question, some in asked.items() if some}


def paired_claims(
    values: PerQuery,
    clusters: Mapping[str, Mapping[str, str]],
    generative: Sequence[str],
    fusions: Mapping[str, Sequence[str]],
    *,
    samples: int,
    seed: int,
    permutations: int = 10_000,
    channels: Collection[str] = (),
    metrics: Sequence[str] = (),
) -> list[Json]:
    """One row per set, question, measure and pair; Holm over the pairs of one question on one set
    and measure. ``channels`` and ``metrics`` are those of plug-ins.
    """
    rows: list[Json] = []
    for set_name in values.sets():
        systems = values.systems(set_name)
        for question, asked in pairs(generative, fusions, systems, channels).items():
            for measure in (*MEASURES, *metrics):
                found = [
                    (a, b, first, second)
                    for a, b in asked
                    if (first := values.get(set_name, a, measure))
                    and (second := values.get(set_name, b, measure))
                ]
                if not found:
                    continue
                ids = found[0][2][0]
                if not ids or any(
                    first[0] != ids or second[0] != ids for _, _, first, second in found
                ):
                    continue
                differences = np.stack(
                    [first[1] - second[1] for _, _, first, second in found], axis=1
                )
                labels = np.array([clusters[set_name][query_id] for query_id in ids])
                tests = paired_tests(
                    differences, labels, seed, permutations=permutations, samples=samples
                )
                adjusted = holm([test.p for test in tests])
                rows += [
                    {
                        "set": set_name,
                        "question": question,
                        "measure": measure,
                        "a": a,
                        "b": b,
                        **asdict(test),
                        "p_holm": float(p),
                        "verdict": verdict(test, float(p)),
                    }
                    for (a, b, _, _), test, p in zip(found, tests, adjusted, strict=True)
                ]
    return rows
