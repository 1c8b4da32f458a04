"""Slow twins of evaluate/: written from the definitions, one query at a time."""

import itertools
import math


def measure(name, k, grades, judged, relevant):
    """One measure of one ranked list of ``grades``; ``judged``: all grades of the query."""
    is_relevant = [g >= relevant if relevant > 0 else g > 0 for g in grades]
    positives = sum(g >= relevant if relevant > 0 else g > 0 for g in judged)
    if name == "ndcg":
        dcg = sum(max(g, 0) / math.log2(r + 2) for r, g in enumerate(grades[:k]))
        best = sum(
            max(g, 0) / math.log2(r + 2) for r, g in enumerate(sorted(judged, reverse=True)[:k])
        )
        return dcg / best if best else 0.0
    if name == "mrr":
        return next((1 / (r + 1) for r, hit in enumerate(is_relevant[:k]) if hit), 0.0)
    if name == "rprec":
        return sum(is_relevant[:positives]) / positives if positives else 0.0
    hits = sum(is_relevant[:k])
    return {
        "recall": hits / positives if positives else 0.0,
        "precision": hits / k,
        "hit": float(hits > 0),
    }[name]


def orders(groups):
    """Every order of a ranking whose groups (lists of grades) have random inner order."""
    for parts in itertools.product(*(itertools.permutations(g) for g in groups)):
        yield [grade for part in parts for grade in part]


def expected(name, k, groups, judged, relevant, depth):
    """The mean over all inner orders of the list cut at ``depth``."""
    values = [measure(name, k, order[:depth], judged, relevant) for order in orders(groups)]
    return sum(values) / len(values)


def sums_by_cluster(differences, labels):
    """The sum of the differences of each cluster, clusters in the order of their labels."""
    return [
        sum(d for d, label in zip(differences, labels, strict=True) if label == one)
        for one in sorted({*labels})
    ]


def cluster_error(differences, labels):
    """The standard error of a mean whose clusters are independent: their sums about their share of
    the mean.
    """
    mean = sum(differences) / len(differences)
    sums = zip(sums_by_cluster(differences, labels), sorted({*labels}), strict=True)
    rest = [x - mean * labels.count(one) for x, one in sums]
    return math.sqrt(len(rest) / (len(rest) - 1) * sum(x * x for x in rest)) / len(labels)


def sign_flip_p(differences, labels):
    """Share of all sign patterns of whole clusters whose sum is at least as far from 0 as the one
    observed.
    """
    sums = sums_by_cluster(differences, labels)
    observed = abs(sum(sums)) - 1e-9
    flipped = [
        abs(sum(s * x for s, x in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    return sum(value >= observed for value in flipped) / len(flipped)


def holm(p_values):
    """Holm's step-down: the k-th smallest of m times (m − k + 1), never below the one before, at
    most 1.
    """
    adjusted, last = {}, 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        last = max(last, p_values[i] * (len(p_values) - place))
        adjusted[i] = min(last, 1.0)
    return [adjusted[i] for i in range(len(p_values))]


def cluster_interval(values, labels, draws):
    """The 95 % percentile interval of a mean; ``draws``: per resample the numbers of the clusters
    drawn.
    """
    clusters = [
        [v for v, label in zip(values, labels, strict=True) if label == one]
        for one in sorted({*labels})
    ]
    means = []
    for drawn in draws:
        resample = [value for number in drawn for value in clusters[number]]
        means.append(sum(resample) / len(resample))
    return _quantile(means, 0.025), _quantile(means, 0.975)


def _quantile(values, share):
    """Linear interpolation between the two nearest order statistics."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
