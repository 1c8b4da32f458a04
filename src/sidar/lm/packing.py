"""One prompt, many candidates, one pass (docs/concepts.md).

``[prompt | nodes of the candidates' trie]``: candidates that share a prefix share its nodes, a node
sees the prompt and its own ancestors, and positions restart after the prompt, so a candidate has
exactly the states that it would have alone.  A log-prob belongs to an *edge* of the trie: the first
code of every candidate is predicted from the last prompt position, code l + 1 from the node of code
l, EOS from the node of the last code.  Each edge is computed once.

A candidate may follow a part of its prompt (``Candidate.at``): the SIDs of one answer are packed as
``[prompt SID₁ sep SID₂ sep | SID₁, SID₂, SID₃]``, each seeing what comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sidar.lm.backbone import MASKED
from sidar.lm.candidate_trie import CandidateTrie, build_trie, roots_of
from sidar.lm.candidates import Candidate, flatten, places_of, weights_of
from sidar.lm.model import SidLM
from sidar.lm.prompts import vectors_of
from sidar.lm.vocab import SidVocab
from sidar.types import CandidateScores

RdrwState = Literal["eos_out", "last_code", "item_vector"]


@dataclass
class Packed:
    """A batch of B prompts, at most C candidates each, L levels, S = L + 1 steps. Made by
    :func:`pack`.

    ``asked`` (n,) lists the flat positions b·T + t whose states somebody reads, by the number d of
    codes written: the ``n_asked[0]`` prompt positions that candidates follow (the last of each
    prompt, B of them, unless some candidate follows a part of its prompt), then ``n_asked[d]``
    nodes of depth d for d = 1 … L.  ``edge_state[d]`` (e_d,) indexes depth d's part of it and
    ``edge_column[d]`` the columns of ``level_logits(·, d)``.  ``step_edge`` and ``eos_edge`` number
    the edges of all depths, concatenated; ``last_state`` and ``before_last_state`` index ``asked``.
    """

    tokens: Tensor  # (B, T) int64: text ids, SIDs as text_vocab + s, 0 in padding
    position_ids: Tensor  # (B, T) int64
    prompt: Tensor  # (B, T) bool, True on prompt tokens
    # (B, T, L) int64 positions of a node's ancestors and itself; only itself elsewhere
    ancestors: Tensor
    real: Tensor  # (n_tokens,) int64 ascending flat positions that are not padding
    asked: Tensor  # (n,) int64
    n_asked: list[int]
    edge_state: list[Tensor]
    edge_column: list[Tensor]
    step_edge: Tensor  # (B, C, S) int64, −1 where a step is absent or does not count
    step_tokens: Tensor  # (B, C, S) int64 SID tokens, EOS included, −1 absent
    # (B, C) int64 edge of the training-only EOS, −1 where EOS counts as a step, and in padding
    eos_edge: Tensor
    last_state: Tensor  # (B, C) int64 the last SID token's: it outputs EOS
    before_last_state: Tensor  # (B, C) int64 the one that outputs the last code
    is_positive: Tensor  # (B, C) bool
    is_candidate: Tensor  # (B, C) bool, False = padding
    tier: Tensor  # (B, C) int64
    star: Tensor  # (B,) int64 first listed of the top tier's positives; 0 where a prompt has none
    # (B, C) float32 of Candidate.weight, 1 in padding; None where all are 1
    weight: Tensor | None = None
    # (B, D) float32 sentence vectors of the prompts, where these bring them along
    vectors: Tensor | None = None
    # (B, T) int64 how many prompt tokens a node sees; None where each sees its whole prompt
    prompt_seen: Tensor | None = None
    # fields of CandidateScores (B, …) that no model computes: who wrote a candidate, its reward
    given: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: str | torch.device) -> Packed:
        """The same batch on ``device``."""
        moved = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                value = value.to(device, non_blocking=True)
            elif f.name in ("edge_state", "edge_column"):
                value = [t.to(device, non_blocking=True) for t in value]
            elif f.name == "given":
                value = {name: t.to(device, non_blocking=True) for name, t in value.items()}
            moved[f.name] = value
        return Packed(**moved)

    def attention_bias(self) -> Tensor:
        """(B, 1, T, T) fp32, 0 where i may see j: j ≤ i in the prompt, or j an ancestor of i, or j
        = i.

        Every row sees at least itself, padding included: a row that sees nothing is NaN in a
        softmax.
        """
        n = self.tokens.shape[1]
        sees = (
            self.prompt[:, None, :]
            & torch.ones(n, n, dtype=torch.bool, device=self.tokens.device).tril()
        )
        if self.prompt_seen is not None:
            sees &= self.position_ids[:, None, :] < self.prompt_seen[:, :, None]
        return torch.where(sees, 0.0, MASKED).scatter_(2, self.ancestors, 0.0)[:, None]


def pack(
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Candidate]],
    vocab: SidVocab,
    *,
    side: Literal["right", "left"] = "right",
) -> Packed:
    """Pack one list of candidates per prompt; identical SIDs and shared prefixes take their tokens
    once.

    ``prompts`` are mixed token ids (``PromptBuilder.encode``) and may bring their sentence vectors
    along (:class:`sidar.lm.prompts.Encoded`); padding goes to ``side``.  Raises ``ValueError``
    naming the prompt that is empty or has no candidate, or the candidate that ``vocab`` cannot
    spell, whose weight is no positive number or whose place is not in its prompt; and where
    candidates follow parts of prompts that have sentence vectors.
    """
    codes, length, owner, slot = flatten(prompts, candidates, vocab)  # (M, L), (M,), (M,), (M,)
    vectors, after = vectors_of(prompts), places_of(prompts, candidates)
    roots = roots_of(owner, after)
    trie = build_trie(codes, length, roots, vocab)
    layout = _lay_out(prompts, trie, vocab, side)
    edges = _number_edges(trie, length, vocab)
    steps = _read_steps(codes, length, trie, edges, vocab)
    listed = [one for listed in candidates for one in listed]
    weight = weights_of(listed, owner, slot)
    positive = np.array([one.is_positive for one in listed], bool)
    tier = np.array([one.tier for one in listed], np.int64)
    shape = (len(prompts), int(slot.max()) + 1)

    def table(values: np.ndarray, fill: float | bool) -> Tensor:
        """(M, …) values of the candidates as (B, C, …)."""
        out = np.full((*shape, *values.shape[1:]), fill, values.dtype)
        out[owner, slot] = values
        return torch.from_numpy(out)

    return Packed(
        tokens=torch.from_numpy(layout.tokens),
        position_ids=torch.from_numpy(layout.positions),
        prompt=torch.from_numpy(layout.is_prompt),
        ancestors=torch.from_numpy(layout.ancestors),
        real=torch.from_numpy(np.flatnonzero(layout.is_prompt | layout.is_node)),
        asked=torch.from_numpy(np.concatenate(layout.places)),
        n_asked=[len(places) for places in layout.places],
        edge_state=[torch.from_numpy(state) for state in edges.state],
        edge_column=[torch.from_numpy(column) for column in edges.column],
        step_edge=table(steps.edge, -1),
        step_tokens=table(steps.tokens, -1),
        eos_edge=table(steps.certain_end, -1),
        last_state=table(steps.last_state, 0),
        before_last_state=table(steps.before_last_state, 0),
        is_positive=table(positive, False),
        is_candidate=table(np.ones(len(codes), bool), False),
        tier=table(tier, 0),
        star=table(np.where(positive, tier, -1), -2).argmax(1),
        weight=None if (weight == 1).all() else table(weight, 1.0),
        vectors=vectors,
        prompt_seen=_prompt_seen(layout, prompts, trie, vectors),
    )


def _prompt_seen(
    layout: _Layout, prompts: Sequence[Sequence[int]], trie: CandidateTrie, vectors: Tensor | None
) -> Tensor | None:
    """Return :attr:`Packed.prompt_seen`; ``ValueError`` where a part of a prompt would have to
    carry its sentence vector, which stands at the end of the whole.
    """
    lengths = np.fromiter(map(len, prompts), np.int64, len(prompts))
    if (trie.after[0] == lengths[trie.owner[0]]).all():
        return None
    if vectors is not None:
        raise ValueError(
            "a candidate that follows a part of its prompt does not fit prompts with sentence "
            "vectors; set lm.geometry: false, or leave the stage with several SIDs out"
        )
    seen = np.full(layout.tokens.shape, layout.tokens.shape[1], np.int64)
    for depth, places in enumerate(layout.places[1:], start=1):
        seen.reshape(-1)[places] = trie.after[depth]
    return torch.from_numpy(seen)


@dataclass(frozen=True)
class _Layout:
    """Where prompts and nodes stand: after its prompt a prompt's nodes, depth by depth.

    ``places`` holds per depth the (n_d,) flat positions b·T + t of the nodes, the roots' being the
    last prompt position that they have.
    """

    tokens: np.ndarray  # (B, T) int64
    positions: np.ndarray  # (B, T) int64
    is_prompt: np.ndarray  # (B, T) bool
    is_node: np.ndarray  # (B, T) bool
    ancestors: np.ndarray  # (B, T, L) int64
    places: list[np.ndarray]


def _lay_out(
    prompts: Sequence[Sequence[int]],
    trie: CandidateTrie,
    vocab: SidVocab,
    side: Literal["right", "left"],
) -> _Layout:
    B, L = len(prompts), vocab.n_levels
    p_len = np.fromiter(map(len, prompts), np.int64, B)
    per_depth = np.stack([np.bincount(o, minlength=B) for o in trie.owner[1:]])  # (L, B) nodes
    sizes = p_len + per_depth.sum(0)
    T = int(sizes.max())
    start = T - sizes if side == "left" else np.zeros(B, np.int64)
    column = np.arange(T)
    layout = _Layout(
        tokens=np.zeros((B, T), np.int64),
        positions=np.zeros((B, T), np.int64),
        is_prompt=(column >= start[:, None]) & (column < (start + p_len)[:, None]),
        is_node=np.zeros((B, T), bool),
        ancestors=np.broadcast_to(column[:, None], (B, T, L)).copy(),
        places=[trie.owner[0] * T + start[trie.owner[0]] + trie.after[0] - 1],
    )
    layout.tokens[layout.is_prompt] = np.concatenate([np.asarray(p, np.int64) for p in prompts])
    layout.positions[layout.is_prompt] = (column - start[:, None])[layout.is_prompt]
    # (n_d, d) positions of a node's ancestors and itself
    chain = np.zeros((len(trie.owner[0]), 0), np.int64)
    free = start + p_len
    for depth in range(1, L + 1):
        owner, count = trie.owner[depth], per_depth[depth - 1]
        position = free[owner] + np.arange(len(owner)) - (np.cumsum(count) - count)[owner]
        free = free + count
        chain = np.concatenate([chain[trie.parent[depth]], position[:, None]], 1)
        first_token = vocab.text_vocab + vocab.offsets[depth - 1]
        layout.tokens[owner, position] = first_token + trie.code[depth]
        layout.positions[owner, position] = trie.after[depth] + depth - 1
        layout.is_node[owner, position] = True
        layout.ancestors[owner, position, :depth] = chain
        layout.places.append(owner * T + position)
    return layout


@dataclass(frozen=True)
class _Edges:
    """Edges of depth d: one to each node of depth d + 1, then one EOS for each node where a
    candidate ends.

    ``state`` and ``column`` as :class:`Packed` has them; ``first`` (L + 2,) numbers the first edge
    of each depth; ``end`` (n_d,) per depth the EOS edge of each node, −1 where no candidate ends.
    """

    state: list[np.ndarray]
    column: list[np.ndarray]
    first: list[int]
    end: list[np.ndarray]


def _number_edges(trie: CandidateTrie, length: np.ndarray, vocab: SidVocab) -> _Edges:
    L = vocab.n_levels
    edges = _Edges([], [], [0], [])
    none = np.zeros(0, np.int64)
    for depth in range(L + 1):
        ends = np.unique(trie.node[length == depth, depth])
        to_nodes = trie.parent[depth + 1] if depth < L else none
        to_codes = trie.code[depth + 1] if depth < L else none
        edges.state.append(np.concatenate([to_nodes, ends]))
        edges.column.append(np.concatenate([to_codes, np.full(len(ends), vocab.n_codes(depth))]))
        number = np.full(len(trie.code[depth]), -1, np.int64)
        number[ends] = edges.first[depth] + len(to_nodes) + np.arange(len(ends))
        edges.end.append(number)
        edges.first.append(edges.first[depth] + len(edges.state[depth]))
    return edges


@dataclass(frozen=True)
class _Steps:
    """What is read of each of the M candidates: edges of its steps, tokens, states.

    ``certain_end`` (M,) is the edge of an EOS that does not count as a step, −1 where it does.
    """

    edge: np.ndarray  # (M, S) int64
    tokens: np.ndarray  # (M, S) int64
    certain_end: np.ndarray  # (M,) int64
    last_state: np.ndarray  # (M,) int64
    before_last_state: np.ndarray  # (M,) int64


def _read_steps(
    codes: np.ndarray, length: np.ndarray, trie: CandidateTrie, edges: _Edges, vocab: SidVocab
) -> _Steps:
    M, L, node = len(codes), vocab.n_levels, trie.node
    absent = np.full((M, 1), -1)
    edge = np.where(node[:, 1:] >= 0, node[:, 1:] + np.array(edges.first[:L]), -1)
    edge = np.concatenate([edge, absent], 1)
    tokens = np.where(codes >= 0, codes + np.array(vocab.offsets), -1)
    tokens = np.concatenate([tokens, absent], 1)
    rows = np.arange(M)
    tokens[rows, length] = vocab.eos
    end, last, before = (np.empty(M, np.int64) for _ in range(3))
    first_state = np.cumsum([0, *(len(code) for code in trie.code)])
    for depth in range(1, L + 1):
        here = length == depth
        end[here] = edges.end[depth][node[here, depth]]
        last[here] = first_state[depth] + node[here, depth]
        before[here] = first_state[depth - 1] + node[here, depth - 1]
    early = length < L  # ending early is a choice and counts; after L codes the end is certain
    edge[rows[early], length[early]] = end[early]
    return _Steps(edge, tokens, np.where(early, -1, end), last, before)


def score(model: SidLM, packed: Packed, rdrw_state: RdrwState | None = None) -> CandidateScores:
    """Score every candidate of ``packed`` under ``model`` in one forward pass; differentiable,
    log-probs in fp32.

    ``rdrw_state`` fills ``hidden`` (B, C, ·), what RDRW compares (RAD-DPO eq. 5; three readings
    [reconstruction]): ``eos_out`` the state after the final norm at the last SID token, which
    outputs EOS; ``last_code`` the state one position earlier, which outputs the last code
    (candidates that differ only there share it); ``item_vector`` the sum of the codes' centroids,
    which no training moves.
    """
    bias = packed.attention_bias()
    # (n, d)
    states = model.states(
        packed.tokens, packed.position_ids, bias, packed.real, packed.asked, packed.vectors
    )
    priors = _priors(model, packed)
    edges, first_logp = [], None
    for depth, hidden in enumerate(states.split(packed.n_asked)):
        edge_state, edge_column = packed.edge_state[depth], packed.edge_column[depth]
        if len(edge_state) == 0:
            continue
        logits = model.level_logits(hidden, depth, priors[depth])
        normaliser = model.log_normaliser(hidden, logits)
        edges.append(logits[edge_state, edge_column].float() - normaliser[edge_state])
        if depth == 0 and len(hidden) == len(packed.tokens):
            first_logp = logits.detach().float() - normaliser.detach()[:, None]
    flat = torch.cat(edges)  # (E,)

    def steps(numbers: Tensor) -> Tensor:
        return torch.where(numbers >= 0, flat[numbers.clamp(min=0)], 0.0)

    hidden_states = None
    if rdrw_state == "item_vector":
        hidden_states = model.item_vectors(packed.step_tokens)
    elif rdrw_state is not None:
        hidden_states = states[
            packed.last_state if rdrw_state == "eos_out" else packed.before_last_state
        ]
    return CandidateScores(
        logp=steps(packed.step_edge),
        mask=packed.step_edge >= 0,
        tokens=packed.step_tokens,
        is_positive=packed.is_positive,
        is_negative=packed.is_candidate & ~packed.is_positive,
        tier=packed.tier,
        star=packed.star,
        eos_logp=steps(packed.eos_edge),
        hidden=hidden_states,
        weight=packed.weight,
        first_logp=first_logp,
        **packed.given,
    )


def _priors(model: SidLM, packed: Packed) -> list[Tensor | None]:
    """Per depth 0 … L what the sentence vectors add to the logits of the asked states of that
    depth; None = nothing.
    """
    levels = model.vocab.n_levels
    if model.geometry is None:
        return [None] * (levels + 1)
    prior = model.geometry.prior(model.checked(packed.vectors))
    width = packed.tokens.shape[1]
    tokens, ancestors = packed.tokens.flatten(), packed.ancestors.flatten(0, 1)
    number = torch.full_like(tokens, -1)  # prefix id of each node, by flat position
    found: list[Tensor | None] = []
    for depth, asked in enumerate(packed.asked.split(packed.n_asked)):
        owner = asked // width
        ids = torch.zeros_like(asked)
        if depth > 0:
            codes = tokens[asked] - model.text_vocab - model.vocab.offsets[depth - 1]
            above = ids if depth == 1 else number[owner * width + ancestors[asked, depth - 2]]
            ids = prior.legal.child(depth - 1, above, codes)
            number[asked] = ids
        # After L codes nothing is left to choose.
        found.append(
            prior.logits(depth, ids, owner, model.vocab.has_eos(depth)) if depth < levels else None
        )
    return found
