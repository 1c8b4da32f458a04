"""Slow twins of sidar.decode's rollouts: whole trees of Python floats, written from the
definitions.
"""

import math
from collections import defaultdict
from itertools import combinations, permutations

from reference_decode import sid_logp

MASK = (1 << 64) - 1
SPAN = 1 << 40


def uniform(key, counter):
    """SplitMix64 in Python's integers: number ``counter`` of the stream ``key``, in (0, 1)."""
    bits = (key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & MASK
    bits ^= bits >> 31
    return ((bits >> 12) + 0.5) / 2**52


def sids_of(index):
    """The SIDs of an index as tuples, in the order of their numbers."""
    return [tuple(c for c in row if c >= 0) for row in index.table.tolist()]


def policy(scorer, prompt, index):
    """[π(y | x)] of the model of every SID of the index: what is left of 1 it gives to no SID."""
    return [math.exp(sid_logp(scorer, prompt, sid)[0]) for sid in sids_of(index)]


class Node:
    """A live prefix: its number among those of its depth, its SID or None, and what follows."""

    def __init__(self, prefix):
        self.prefix, self.sid, self.number, self.children = prefix, None, None, {}


def tree(index):
    """The root of the index as nodes."""
    root, by_depth = Node(()), defaultdict(list)
    for number, sid in enumerate(sids_of(index)):
        node = root
        for code in sid:
            node = node.children.setdefault(code, Node((*node.prefix, code)))
        node.sid = number
    waiting = [root]
    for node in waiting:
        by_depth[len(node.prefix)].append(node)
        waiting += node.children.values()
    for nodes in by_depth.values():
        for number, node in enumerate(sorted(nodes, key=lambda n: n.prefix)):
            node.number = number
    return root


def choices(scorer, prompt, node, temperature):
    """{code, or None for EOS: probability} after a prefix under the constrained, tempered policy;
    None is certain after L codes.
    """
    if len(node.prefix) == len(scorer.codebook_sizes):
        return {None: 1.0}
    at = 0
    for level, code in enumerate(node.prefix):
        at = at * scorer.codebook_sizes[level] + code
    logp = scorer.tables[len(node.prefix)][prompt, at]
    mass = {code: math.exp(float(logp[code]) / temperature) for code in node.children}
    if node.sid is not None:
        mass[None] = math.exp(float(logp[-1]) / temperature)
    total = math.fsum(mass.values())
    return {choice: value / total for choice, value in mass.items()}


def drawn_policy(scorer, prompt, index, temperature=1.0):
    """[p(y)] of every SID of the index under the constrained, tempered policy; they add up to 1."""
    found = {}

    def visit(node, p):
        for choice, share in choices(scorer, prompt, node, temperature).items():
            if choice is None:
                found[node.sid] = p * share
            else:
                visit(node.children[choice], p * share)

    visit(tree(index), 1.0)
    return [found[number] for number in range(index.n_sids)]


def perturbed(scorer, prompt, index, key, temperature=1.0):
    """[(perturbed log-prob, φ)] of every SID: the whole tree top down, no beam (Kool et al.
    2019): the maximum of a prefix's choices is the prefix's own perturbed log-prob.
    """
    found = {}

    def visit(node, phi, limit):
        shares = choices(scorer, prompt, node, temperature)
        depth = len(node.prefix)
        if depth == len(scorer.codebook_sizes):
            found[node.sid] = limit, phi
            return
        raw = {}
        for choice, share in shares.items():
            kind, number = (1, node.number) if choice is None else (0, node.children[choice].number)
            u = uniform(key, number + (2 * depth + kind) * SPAN)
            raw[choice] = phi + math.log(share) - math.log(-math.log(u))
        top = max(raw.values())
        for choice, value in raw.items():
            if depth:
                inside = math.exp(-limit) - math.exp(-top) + math.exp(-value)
                value = -math.log(inside)
            here = phi + math.log(shares[choice])
            if choice is None:
                found[node.sid] = value, here
            else:
                visit(node.children[choice], here, value)

    visit(tree(index), 0.0, None)
    return [found[number] for number in range(index.n_sids)]


def without_replacement(scorer, prompt, index, group, key, temperature=1.0):
    """[(SID, weight)] of the ``group`` best perturbed SIDs, best first."""
    scored = perturbed(scorer, prompt, index, key, temperature)
    order = sorted(range(len(scored)), key=lambda number: -scored[number][0])
    kappa = scored[order[group]][0] if len(order) > group else -math.inf
    model = policy(scorer, prompt, index)
    return [
        (number, model[number] / (1 - math.exp(-math.exp(scored[number][1] - kappa))))
        for number in order[:group]
    ]


def set_probabilities(p, group):
    """{set of SIDs: probability} of drawing one after another without replacement from ``p``."""
    found = {}
    for members in combinations(range(len(p)), group):
        total = 0.0
        for order in permutations(members):
            left, chance = 1.0, 1.0
            for member in order:
                chance *= p[member] / left
                left -= p[member]
            total += chance
        found[frozenset(members)] = total
    return found


def inclusion(p, group):
    """[probability that an SID is among ``group`` draws without replacement]."""
    sets = set_probabilities(p, group)
    return [
        math.fsum(chance for members, chance in sets.items() if number in members)
        for number in range(len(p))
    ]
