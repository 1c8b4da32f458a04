"""The start at the geometry: a prior over the index's SIDs by the query's sentence vector, which
the decoder corrects.

A model from scratch learns in its first minutes what the codes' geometry says anyway, and on a
large catalogue little more (docs/grown.md). Here it starts there [ours]. The sentence vector q of
the prompt gives every SID of the index the score of quantised dense, its cosine with the sum v_y of
the SID's centroids, and the softmax over these SIDs is a distribution; read code by code it is a
prior for every next code, exactly:

    s(y) = g · (P q) · Σ_l C_l[y_l] / ‖v_y‖,      S(p) = log Σ_{y that begin with p} exp s(y)
    log p(c | prefix p) = S(p c) − S(p)           (EOS: the score of p itself, where p is an SID)
    logits(c | prefix p) = a_d · log p(c | p) + W_d h / √d

C = centroids, P = identity, a = 1 and W = 0 at the start, so that log π(y | x) at step 0 is the
log-softmax of g · cos(q, v_y) over the index: it ranks as quantised dense does, for SIDs of any
lengths, and wastes nothing on what is no SID. Everything is trained from there: P and C through the
whole softmax as a linear retriever, the decoder as what corrects it. Codes that lead to no SID of
the index have the prior exp(FLOOR).

The sums over all SIDs of the index are made once a batch, for the first code alone
(lm/prior/masses.py); below a prefix that somebody asks for only its own SIDs are scored.

An index of more than ``exact`` SIDs has a first code in two stages [ours]: every prefix p of depth
1 has the estimate

    Ŝ(p) = log n_p + m_p + e(σ_p, n_p),   m_p = g · (P q) · μ_p,   σ_p² = g² · t_p · (P q)ᵀ Σ (P q)
    e(σ, n) = σ² / 2 where σ ≤ √(2 log n), else σ √(2 log n) − log n

with n_p SIDs of mean unit vector μ_p and spread t_p below it, and Σ the pooled covariance
(lm/prior/legal.py): the log-sum-exp of n draws of a Gaussian (e as in the random energy model). The
``top`` prefixes of a prompt by Ŝ have their exact S instead. The same in training and in search:
neither looks at candidates, and every level is a softmax over what is live, so the whole is a
distribution over the index. Given its first code an SID's probability is exact.

Two other starts were tried once and were no better (docs/findings.md): the same scores added level
by level are a product of levels, which training distorts to make up for the codes that do not go
together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidar.lm.prior.legal import Legal
from sidar.lm.prior.masses import TINY, FirstMasses

#: g at the start. The likelihood of held-out answers is flat between 20 and 40 for MiniLM
#: (docs/grown.md).
SCALE = 25.0
#: log-prior of a code that leads to no SID of the index.
FLOOR = -30.0

NO_INDEX = (
    "this model weighs the SIDs of an index by the query's sentence vector (lm.geometry): hand it "
    "the index of its catalogue first, `model.use(index)`"
)


@dataclass
class Prior:
    """What B sentence vectors say of every prefix. ``scores`` (ΣK, B) of every code, ``first``
    (n_1, B) S of the prefixes of depth 1, exact or estimated."""

    legal: Legal
    scores: Tensor
    first: Tensor
    strength: Tensor  # (L,)

    def logits(self, depth: int, prefixes: Tensor, owner: Tensor, eos: bool) -> Tensor:
        """(n, K) fp32, EOS as one more column with ``eos``: a_d · log p of what may follow
        ``prefixes`` (n,) int64 at ``depth`` (−1 = not in the index) under the prompts ``owner``
        (n,)."""
        legal = self.legal
        out = self.first.new_full((len(prefixes), legal.sizes[depth] + 1), FLOOR)
        if depth == 0:
            logp = self.first.log_softmax(0).clamp(min=FLOOR)
            out = out.index_copy(1, legal.code[0], logp.T[owner])
        else:
            live = (prefixes >= 0).nonzero()[:, 0]
            rows, columns, logp = self._below(depth, prefixes[live], owner[live])
            out = out.index_put((live[rows], columns), logp.clamp(min=FLOOR))
        return self.strength[depth] * (out if eos else out[:, :-1])

    def _below(self, depth: int, prefixes: Tensor, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Every choice after every one of ``prefixes`` (n,): which of them, column and log p, each
        (m,).
        """
        legal = self.legal
        leaf, rows, sids = _leaves(legal, self.scores, depth, prefixes, owner)
        start = legal.choice_start[depth][prefixes]
        counts = legal.choice_start[depth][prefixes + 1] - start
        choices, asked = _ranges(start, counts)  # (m,)
        top = _tops(leaf, rows, len(prefixes))
        weight = (leaf - top.index_select(0, rows)).exp()
        # of a prefix's choices among those that are asked for
        shift = counts.cumsum(0) - counts - start
        place = shift.index_select(0, rows) + legal.choice_of[depth].index_select(0, sids)
        mass = weight.new_zeros(len(choices)).index_add(0, place, weight)
        whole = weight.new_zeros(len(prefixes)).index_add(0, rows, weight)
        logp = mass.clamp(min=TINY).log() - whole.log().index_select(0, asked)
        return asked, legal.choice_column[depth].index_select(0, choices), logp


def first_masses(
    legal: Legal, scores: Tensor, q: Tensor, first_codes: Tensor, exact: int, top: int
) -> Tensor:
    """S (n_1, B) of the prefixes of depth 1: exact for an index of at most ``exact`` SIDs (0 =
    any), else two-stage.

    ``scores`` (ΣK, B) g · C · P q of every code, ``q`` (B, D) g · P q, ``first_codes`` (K_1, D) the
    first of C.
    """
    if not exact or legal.n_sids <= exact:
        return FirstMasses.apply(scores, legal)
    moments = legal.moments
    # (n_1, B)
    mean = moments.first[:, None] * F.linear(first_codes, q)[legal.code[0]] + F.linear(
        moments.rest, q
    )
    width = (q @ moments.covariance * q).sum(1).clamp(min=1e-12).sqrt()  # (B,)
    sigma = moments.spread.sqrt()[:, None] * width
    most = (2 * moments.log_count).sqrt()[:, None]
    excess = torch.where(
        sigma <= most, sigma.square() / 2, sigma * most - moments.log_count[:, None]
    )
    estimate = moments.log_count[:, None] + mean + excess
    chosen = estimate.detach().topk(min(top, len(estimate)), 0).indices  # (top, B)
    prefixes = chosen.flatten()
    owner = torch.arange(len(q), device=q.device).expand_as(chosen).flatten()
    leaf, rows, _ = _leaves(legal, scores, 1, prefixes, owner)
    highest = _tops(leaf, rows, len(prefixes))
    total = leaf.new_zeros(len(prefixes)).index_add(
        0, rows, (leaf - highest.index_select(0, rows)).exp()
    )
    return estimate.index_put((prefixes, owner), total.log() + highest)


def _leaves(
    legal: Legal, scores: Tensor, depth: int, prefixes: Tensor, owner: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores s of all SIDs below ``prefixes`` (n,) of ``depth`` under ``owner``, whose they are,
    and their numbers.
    """
    low = legal.low[depth][prefixes]
    sids, rows = _ranges(low, legal.count[depth][prefixes])
    flat = scores.T.reshape(-1)  # a prompt's scores lie together
    base = owner * len(scores)  # (n,)
    shared = flat.new_zeros(len(prefixes))
    for level in range(depth):  # the codes of the prefix
        shared = shared + flat.index_select(0, base + legal.level_codes[level][low])
    total, bases = shared.index_select(0, rows), base.index_select(0, rows)
    for level in range(depth, len(legal.sizes)):
        here = flat.index_select(0, bases + legal.level_codes[level].index_select(0, sids))
        total = total + (here if legal.fixed else here * legal.has[level].index_select(0, sids))
    return total * legal.inverse.index_select(0, sids), rows, sids


def _ranges(first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the ranges ``first`` … ``first + counts`` (n,) one after another, and the
    range of each.
    """
    rows = torch.repeat_interleave(counts)
    shift = first - (counts.cumsum(0) - counts)
    return torch.arange(len(rows), device=rows.device) + shift.index_select(0, rows), rows


def _tops(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """(n,) the largest of ``values`` of each row; no gradient."""
    return values.new_full((n,), -math.inf).scatter_reduce(0, rows, values.detach(), "amax")


class Geometry(nn.Module):
    """The trained parts of the prior. ``dim``: width D of the sentence vector, ``hidden``: of the
    decoder.

    ``exact`` and ``top``: an index of more SIDs than ``exact`` (0 = never) has its first code in
    two stages.
    """

    def __init__(
        self, codebook_sizes: tuple[int, ...], dim: int, hidden: int, exact: int = 0, top: int = 0
    ) -> None:
        super().__init__()
        self.exact, self.top = exact, top
        self.query = nn.Parameter(torch.eye(dim))  # P
        # C_l
        self.codes = nn.ParameterList(nn.Parameter(torch.zeros(k, dim)) for k in codebook_sizes)
        self.log_gate = nn.Parameter(torch.tensor(math.log(SCALE)))  # log g
        self.strength = nn.Parameter(torch.ones(len(codebook_sizes)))  # a_d
        # what the decoder reads of q, at the prompt's last token
        self.token = nn.Parameter(torch.zeros(hidden, dim))
        self.legal: Legal | None = None

    @property
    def dim(self) -> int:
        return len(self.query)

    @torch.no_grad()
    def start(self, centroids: Tensor) -> None:
        """Begin at ``centroids`` (ΣK, D), all levels concatenated."""
        for codes, book in zip(
            self.codes, centroids.split([len(rows) for rows in self.codes]), strict=True
        ):
            codes.copy_(book)

    def prior(self, vectors: Tensor) -> Prior:
        """(B, D) sentence vectors → the prior of every prefix, fp32.

        ``ValueError`` before :meth:`SidLM.use`.
        """
        if self.legal is None:
            raise ValueError(NO_INDEX)
        legal = self.legal = self.legal.to(vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):
            q = F.linear(vectors.float(), self.query) * self.log_gate.exp()
            scores = torch.cat([F.linear(codes, q) for codes in self.codes])
            first = first_masses(legal, scores, q, self.codes[0], self.exact, self.top)
        return Prior(legal, scores, first, self.strength)

    def tokens(self, vectors: Tensor) -> Tensor:
        """(B, D) → (B, d): to be added to the embedding of each prompt's last token."""
        return F.linear(vectors.float(), self.token)
