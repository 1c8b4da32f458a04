"""Slow twin of the dual-view index: loops in float64, written from its definition."""


def route(queries, centroids, nprobe):
    """Per query the ``nprobe`` lists of least distance, nearest first."""
    found = []
    for query in queries.astype(float):
        distances = [float(((query - centroid) ** 2).sum()) for centroid in centroids.astype(float)]
        found.append(sorted(range(len(centroids)), key=lambda c: (distances[c], c))[:nprobe])
    return found


def search(items, lists, centroids, queries, k, nprobe):
    """Per query up to k (row, score), best first, ties by lower row."""
    found = []
    for query, probed in zip(queries.astype(float), route(queries, centroids, nprobe), strict=True):
        rows = [row for row in range(len(items)) if lists[row] in probed]
        scored = [(row, float(query @ items[row].astype(float))) for row in rows]
        found.append(sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k])
    return found
