"""The candidates of a packed batch as a trie: what they share is written once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidar.lm.vocab import SidVocab


@dataclass(frozen=True)
class Roots:
    """The R prompts, and parts of prompts, that candidates follow, prompt by prompt.

    ``of`` (M,) the root of each candidate; ``owner`` (R,) its prompt; ``after`` (R,) how many of
    the prompt's tokens it has. Where all candidates follow whole prompts the roots are the prompts.
    """

    of: np.ndarray
    owner: np.ndarray
    after: np.ndarray


def roots_of(owner: np.ndarray, after: np.ndarray) -> Roots:
    """Return the roots of candidates whose prompts are ``owner`` (M,) and which follow ``after``
    (M,) tokens of them.
    """
    longest = int(after.max()) + 1
    keys, of = np.unique(owner * longest + after, return_inverse=True)
    return Roots(of, *np.divmod(keys, longest))


@dataclass(frozen=True)
class CandidateTrie:
    """The candidates' codes as nodes. Lists have one entry per depth, 0 = the R roots.

    ``parent`` (n_d,) numbers nodes of the depth above, ``code`` (n_d,) is the last code written,
    ``owner`` (n_d,) the prompt, ``after`` (n_d,) the prompt tokens that it follows. ``node`` (M, L
    + 1): candidate m's node of depth d, among the nodes of that depth; −1 past its end.
    """

    node: np.ndarray
    parent: list[np.ndarray]
    code: list[np.ndarray]
    owner: list[np.ndarray]
    after: list[np.ndarray]


def build_trie(
    codes: np.ndarray, length: np.ndarray, roots: Roots, vocab: SidVocab
) -> CandidateTrie:
    """Build the trie one level at a time.

    A node is (parent, code), numbered by first appearance, so that another candidate in a list
    cannot reorder this one's nodes; candidates are listed prompt by prompt, so nodes are as well.
    """
    node = np.full((len(codes), vocab.n_levels + 1), -1, np.int64)
    node[:, 0] = roots.of
    count = len(roots.owner)
    trie = CandidateTrie(
        node, [np.arange(count)], [np.full(count, -1)], [roots.owner], [roots.after]
    )
    for level, size in enumerate(vocab.codebook_sizes):
        on = length > level
        key = node[on, level] * size + codes[on, level]
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        node[on, level + 1] = rank[inverse]
        parent, code = np.divmod(key[first[order]], size)
        trie.parent.append(parent)
        trie.code.append(code)
        trie.owner.append(trie.owner[-1][parent])
        trie.after.append(trie.after[-1][parent])
    return trie
