"""Paired tests: every method against the reference, every control against its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sidar.compare.methods import REFERENCE, Method
from sidar.compare.results import PairedResult
from sidar.evaluate.perquery import PerQuery
from sidar.evaluate.slices import CLASSES
from sidar.evaluate.stats import PairedTest, Verdict, holm, paired_tests, verdict

Clusters = Mapping[str, Mapping[str, str]]  # set -> query id -> cluster

#: The endpoint, named in advance: it decides which tokenizer is best.
PRIMARY = "item/ndcg@10"
SECOND = "item/recall@100"
#: Measures of which less is better begin like this.
LOWER = "invalid/"
BY_CLASS = tuple(f"{SECOND}[{name}]" for name in CLASSES)
INVALID = "invalid/mass"
#: Questions, and their measures.
BETTER, CONTROLS = "better", "controls"
MEASURES = {
    BETTER: (PRIMARY, SECOND, *BY_CLASS, INVALID),
    CONTROLS: (PRIMARY, SECOND, *BY_CLASS),
}


@dataclass(frozen=True)
class Pair:
    """Is ``a`` better than ``b``? ``other`` is the measure of b, where it is not that of a."""

    a: str
    b: str
    measure: str
    other: str = ""


@dataclass(frozen=True)
class Sampling:
    """How tests sample: stacked seeds, seed of the resampling, bootstrap samples."""

    seeds: int = 1
    seed: int = 0
    samples: int = 1000


def compare_methods(
    values: PerQuery, clusters: Clusters, methods: Sequence[Method], sampling: Sampling
) -> list[PairedResult]:
    """Return all tests among ``methods``; Holm's family is a question on a measure and set."""
    names = {method.name for method in methods}
    controls = [method for method in methods if method.must_lose_to]
    rivals = [method.name for method in methods if not method.must_lose_to]
    pairs = {
        BETTER: [(name, REFERENCE) for name in rivals if name != REFERENCE],
        CONTROLS: [(c.must_lose_to, c.name) for c in controls if c.must_lose_to in names],
    }
    results = []
    for question, asked in pairs.items():
        families = [[Pair(a, b, measure) for a, b in asked] for measure in MEASURES[question]]
        results += compare_pairs(values, clusters, question, families, sampling)
    return results


def compare_pairs(
    values: PerQuery,
    clusters: Clusters,
    question: str,
    families: Sequence[Sequence[Pair]],
    sampling: Sampling,
) -> list[PairedResult]:
    """Return one result per set and pair, with Holm's correction inside each family of a set.

    Pairs that a set lacks values for are left out. ``values`` are stacked over the seeds.
    """
    results: list[PairedResult] = []
    for set_name in values.sets():
        for family in families:
            results += compare_family(values, clusters, set_name, question, family, sampling)
    return results


def compare_family(
    values: PerQuery,
    clusters: Clusters,
    set_name: str,
    question: str,
    family: Sequence[Pair],
    sampling: Sampling,
) -> list[PairedResult]:
    """Return the results of one family on one set, with Holm's correction over its pairs."""
    measured: list[tuple[Pair, np.ndarray, PairedTest]] = []
    for pair in family:
        a = values.get(set_name, pair.a, pair.measure)
        b = values.get(set_name, pair.b, pair.other or pair.measure)
        if a is None or b is None or a[0] != b[0] or not a[0]:
            continue
        difference = a[1] - b[1]
        labels = np.array([clusters[set_name][query_id] for query_id in a[0]])
        (test,) = paired_tests(difference[:, None], labels, sampling.seed, samples=sampling.samples)
        measured.append((pair, difference, test))
    adjusted = holm([test.p for _, _, test in measured])
    results = []
    for (pair, difference, test), p in zip(measured, adjusted, strict=True):
        by_seed = difference.reshape(sampling.seeds, -1).mean(axis=1)
        agree = int((np.sign(by_seed) == np.sign(test.effect)).sum())
        word = _better(test, float(p), pair.measure)
        facts = asdict(pair) | asdict(test)
        results.append(
            PairedResult(
                set=set_name,
                question=question,
                p_holm=float(p),
                agree=agree,
                verdict=word,
                **facts,
            )
        )
    return results


def _better(test: PairedTest, p: float, measure: str) -> Verdict:
    """Return the verdict on "a is better", also where less is better."""
    if not measure.startswith(LOWER):
        return verdict(test, p)
    effect, low, high = -test.effect, -test.high, -test.low
    turned = PairedTest(effect, low, high, test.p, test.detectable, test.n, test.clusters)
    return verdict(turned, p)
