"""Slow twins of the answer: loops straight from the formulas of sidar.answer.smoothed."""

import math


def channel_distribution(listed, temperature, delta, live):
    """{row: p_c} over ``live`` rows; ``listed`` {row: score}."""
    n = len(live)
    if not listed:
        return dict.fromkeys(live, 1 / n)
    top = max(listed.values())
    weights = {row: math.exp((score - top) / temperature) for row, score in listed.items()}
    total = sum(weights.values())
    return {row: (1 - delta) * weights.get(row, 0.0) / total + delta / n for row in live}


def answer(params, channels, counts, memory, live):
    """{row: P} over ``live``; ``channels`` {name: {row: score}}, ``counts`` {row: n}, ``memory``
    {row: c}.
    """
    total = sum(counts[row] + 1 for row in live)
    prior = {row: (counts[row] + 1) / total for row in live}
    union = sorted({row for listed in channels.values() for row in listed})
    pool = {}
    for row in union:
        value = prior[row] ** params.weights["prior"]
        for name, listed in channels.items():
            p = channel_distribution(listed, params.temperatures[name], params.delta, live)
            value *= p[row] ** params.weights[name]
        pool[row] = value
    whole = sum(pool.values())
    epsilon = params.epsilon if union else 1.0
    n_q = sum(memory.get(row, 0.0) for row in live)
    out = {}
    for row in live:
        smoothing = (1 - epsilon) * pool.get(row, 0.0) / (whole or 1.0) + epsilon * prior[row]
        out[row] = (memory.get(row, 0.0) + params.kappa * smoothing) / (n_q + params.kappa)
    return out


def memory_counts(requests, query_of, half_life, last_day):
    """{query: {row: c}}; ``requests``: (user, query, day, {row: action})."""
    weight = {1: 1.0, 2: 2.0, 3: 4.0}
    best = {}
    for user, query, day, actions in requests:
        for row, action in actions.items():
            if action:
                key = (user, query_of(query), row, day)
                best[key] = max(best.get(key, 0.0), weight[action])
    out = {}
    for (_, query, row, day), value in best.items():
        counts = out.setdefault(query, {})
        counts[row] = counts.get(row, 0.0) + value * 2 ** (-max(last_day - day, 0) / half_life)
    return out
