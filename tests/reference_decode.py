"""Slow twins of sidar.decode: plain loops over SIDs and tables, written from the definitions."""

import math
from itertools import permutations, product

import numpy as np

from sidar.types import SemanticIds


def sid_table(tuples, sizes):
    """A SemanticIds of one row per tuple (any lengths)."""
    codes = np.full((len(tuples), len(sizes)), -1, np.int32)
    for row, codes_of in enumerate(tuples):
        codes[row, : len(codes_of)] = codes_of
    return SemanticIds(codes, np.array([len(t) for t in tuples], np.int32), tuple(sizes))


def sid_logp(scorer, prompt, codes):
    """log π of one SID, one step at a time through the scorer's own tables, and its steps."""
    steps, node = [], 0
    for depth, code in enumerate(codes):
        steps.append(float(scorer.tables[depth][prompt, node, code]))
        node = node * scorer.codebook_sizes[depth] + code
    if scorer.variable_length and len(codes) < len(scorer.codebook_sizes):
        steps.append(float(scorer.tables[len(codes)][prompt, node, -1]))
    return math.fsum(steps), steps


def ranking(scorer, prompt, index):
    """[(score, SID number, steps)] of the whole index, best first, ties by number."""
    scored = []
    for number, row in enumerate(index.table.tolist()):
        score, steps = sid_logp(scorer, prompt, [c for c in row if c >= 0])
        scored.append((score, number, steps))
    return sorted(scored, key=lambda x: (-x[0], x[1]))


def all_sids(scorer):
    """Every SID that the scorer can write."""
    sizes = scorer.codebook_sizes
    lengths = range(1, len(sizes) + 1) if scorer.variable_length else [len(sizes)]
    return [codes for n in lengths for codes in product(*map(range, sizes[:n]))]


def beam(scorer, prompt, index, width):
    """Beam search over Python sets: [(score, codes, finished)] after the last step, in no
    particular tie order.
    """
    sids = {tuple(c for c in row if c >= 0) for row in index.table.tolist()}
    levels = len(scorer.codebook_sizes)
    front = [(0.0, (), False)]
    for depth in range(levels):
        candidates = [b for b in front if b[2]]
        for score, prefix, done in front:
            if done:
                continue
            node = 0
            for level, code in enumerate(prefix):
                node = node * scorer.codebook_sizes[level] + code
            logp = scorer.tables[depth][prompt, node]
            if scorer.variable_length and prefix in sids:
                candidates.append((score + float(logp[-1]), prefix, True))
            for code in sorted({s[depth] for s in sids if s[:depth] == prefix and len(s) > depth}):
                candidates.append((score + float(logp[code]), (*prefix, code), depth + 1 == levels))
        front = sorted(candidates, key=lambda b: -b[0])[:width]
    return front


def answers(scorer, prompt, index, continued, count):
    """[(score, SID numbers)] of every ordered choice of ``count`` different SIDs, best first."""
    sids = [tuple(code for code in row if code >= 0) for row in index.table.tolist()]
    scored = []
    for chosen in permutations(range(len(sids)), count):
        score, reads = 0.0, prompt
        for number in chosen:
            score += sid_logp(scorer, reads[0], sids[number])[0]
            reads = continued(reads, sids[number]) if number != chosen[-1] else reads
        scored.append((score, chosen))
    return sorted(scored, key=lambda one: (-one[0], one[1]))
