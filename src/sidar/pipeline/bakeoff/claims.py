"""The questions that a bake-off asks, each with effect, interval, power and verdict (protocol.md §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sidar.evaluate.perquery import PerQuery
from sidar.evaluate.slices import CLASSES
from sidar.evaluate.stats import PairedTest, holm, paired_tests, verdict
from sidar.pipeline.bakeoff.entrants import REFERENCE, Entrant

#: Named in advance: what decides which tokenizer is best.
PRIMARY = "item/ndcg@10"
SECOND = "item/recall@100"
#: Measures where less is better.
LOWER = ("invalid/",)
RECALLS = (PRIMARY, SECOND, *(f"{SECOND}[{name}]" for name in (*CLASSES, "seen", "unseen")))
AGAINST_REFERENCE = (*RECALLS, "quantised/recall@100", "invalid/mass", "invalid/free@10")
CONTROLS = (PRIMARY, SECOND, *(f"{SECOND}[{name}]" for name in CLASSES))


@dataclass(frozen=True)
class Pair:
    """Is ``a`` better than ``b``? ``other``: the measure of b, where it is not the one of a."""

    a: str
    b: str
    measure: str
    other: str = ""


def against_reference(entrants: Sequence[Entrant]) -> list[list[Pair]]:
    """One family per measure: every contender against the reference."""
    rivals = [each.name for each in entrants if each.name != REFERENCE and not each.must_lose_to]
    return [[Pair(name, REFERENCE, measure) for name in rivals] for measure in AGAINST_REFERENCE]


def controls(entrants: Sequence[Entrant]) -> list[list[Pair]]:
    """One family per measure: every method against its control."""
    pairs = [(each.must_lose_to, each.name) for each in entrants if each.must_lose_to]
    return [[Pair(a, b, measure) for a, b in pairs] for measure in CONTROLS]


def cqsid_pairs(measures: Sequence[str]) -> list[list[Pair]]:
    """CQ-SID and its ablations against RQ-VAE, one family per measure; and CQ-SID at half of RQ-VAE's beam."""
    rivals = ("cqsid", "cqsid-no-category", "cqsid-no-queries")
    return [[Pair(name, "rqvae", measure) for name in rivals] for measure in measures]


def ask(
    values: PerQuery,
    clusters: Mapping[str, Mapping[str, str]],
    question: str,
    families: Sequence[Sequence[Pair]],
    *,
    seeds: int = 1,
    seed: int = 0,
    samples: int = 1000,
    permutations: int = 10_000,
) -> list[dict[str, Any]]:
    """One row per set and pair, Holm inside each family of a set; pairs that a set lacks values for are left out.

    ``values`` are stacked over ``seeds`` runs of equal length; ``agree`` counts the runs with the sign of the effect.
    """
    rows: list[dict[str, Any]] = []
    for each in values.sets():
        for family in families:
            found = []
            for pair in family:
                a, b = values.get(each, pair.a, pair.measure), values.get(each, pair.b, pair.other or pair.measure)
                if a is not None and b is not None and a[0] == b[0] and len(a[0]):
                    found.append((pair, a[0], a[1] - b[1]))
            tests = []
            for _, ids, difference in found:
                labels = np.array([clusters[each][query_id] for query_id in ids])
                tests += paired_tests(difference[:, None], labels, seed, permutations=permutations, samples=samples)
            for (pair, _, difference), test, p in zip(found, tests, holm([t.p for t in tests]), strict=True):
                by_seed = difference.reshape(seeds, -1).mean(axis=1)
                rows.append(
                    {
                        "set": each,
                        "question": question,
                        "measure": pair.measure,
                        "other": pair.other,
                        "a": pair.a,
                        "b": pair.b,
                        **asdict(test),
                        "p_holm": float(p),
                        "agree": int((np.sign(by_seed) == np.sign(test.effect)).sum()),
                        "verdict": _better(test, float(p), pair.measure),
                    }
                )
    return rows


def _better(test: PairedTest, p: float, measure: str) -> str:
    """The verdict on "a is better", also where less is better."""
    if not measure.startswith(LOWER):
        return verdict(test, p)
    turned = PairedTest(-test.effect, -test.high, -test.low, test.p, test.detectable, test.n, test.clusters)
    return verdict(turned, p)
