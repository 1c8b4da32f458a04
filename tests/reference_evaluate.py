"""Slow twins of evaluate/: written from the definitions, one query at a time."""

import itertools
import math


def measure(name, k, grades, judged, relevant):
    """One measure of one ranked list of ``grades``; ``judged``: all grades of the query."""
    is_relevant = [g >= relevant if relevant > 0 else g > 0 for g in grades]
    positives = sum(g >= relevant if relevant > 0 else g > 0 for g in judged)
    if name == "ndcg":
        dcg = sum(max(g, 0) / math.log2(r + 2) for r, g in enumerate(grades[:k]))
        best = sum(max(g, 0) / math.log2(r + 2) for r, g in enumerate(sorted(judged, reverse=True)[:k]))
        return dcg / best if best else 0.0
    if name == "mrr":
        return next((1 / (r + 1) for r, hit in enumerate(is_relevant[:k]) if hit), 0.0)
    if name == "rprec":
        return sum(is_relevant[:positives]) / positives if positives else 0.0
    hits = sum(is_relevant[:k])
    return {"recall": hits / positives if positives else 0.0, "precision": hits / k, "hit": float(hits > 0)}[name]


def orders(groups):
    """Every order of a ranking whose groups (lists of grades) have random inner order."""
    for parts in itertools.product(*(itertools.permutations(g) for g in groups)):
        yield [grade for part in parts for grade in part]


def expected(name, k, groups, judged, relevant, depth):
    """The mean over all inner orders of the list cut at ``depth``."""
    values = [measure(name, k, order[:depth], judged, relevant) for order in orders(groups)]
    return sum(values) / len(values)
