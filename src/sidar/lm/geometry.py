"""The start at the geometry: a prior over the index's SIDs by the query's sentence vector, which the decoder corrects.

A model from scratch learns in its first minutes what the codes' geometry says anyway, and on a large catalogue little
more (docs/grown.md). Here it starts there [ours]. The sentence vector q of the prompt gives every SID of the index
the score of quantised dense, its cosine with the sum v_y of the SID's centroids, and the softmax over these SIDs is a
distribution; read code by code it is a prior for every next code, exactly:

    s(y) = g · (P q) · Σ_l C_l[y_l] / ‖v_y‖,      S(p) = log Σ_{y that begin with p} exp s(y)
    log p(c | prefix p) = S(p c) − S(p)           (EOS: the score of p itself, where p is an SID)
    logits(c | prefix p) = a_d · log p(c | p) + W_d h / √d

C = centroids, P = identity, a = 1 and W = 0 at the start, so that log π(y | x) at step 0 is the log-softmax of
g · cos(q, v_y) over the index: it ranks as quantised dense does, for SIDs of any lengths, and wastes nothing on what is
no SID. Everything is trained from there: P and C through the whole softmax as a linear retriever, the decoder as what
corrects it. Codes that lead to no SID of the index have the prior exp(FLOOR).

Two simpler starts were tried and are worse (docs/findings.md): the same scores added level by level are a product of
levels, which training distorts to make up for the codes that do not go together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidar.index import PrefixIndex
from sidar.restore import reconstruct

#: g at the start. The likelihood of held-out answers is flat between 20 and 40 for MiniLM (docs/grown.md).
SCALE = 25.0
#: log-prior of a code that leads to no SID of the index.
FLOOR = -30.0

NO_INDEX = (
    "this model weighs the SIDs of an index by the query's sentence vector (lm.geometry): hand it the index of its "
    "catalogue first, `model.use(index)`"
)


class Legal:
    """The SIDs of an index as tensors on ``device``; depths and prefix ids as in :class:`sidar.index.PrefixIndex`.

    Per depth d: ``start`` (n_d + 1,) first child of each prefix; ``parent``, ``code`` (n_{d+1},) of each child; ``sid``
    (n_d,) SID number of a prefix that is one, else −1. ``inverse_length`` (n_sids,) 1 / ‖v_y‖ of the centroids.
    """

    def __init__(self, index: PrefixIndex, centroids: np.ndarray, device: torch.device | str = "cpu") -> None:
        self.index, self.centroids, self.device = index, centroids, torch.device(device)
        self.sizes, self.n_sids, self.fixed = tuple(index.codebook_sizes), index.n_sids, index.fixed_length

        def on(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(array, np.int64)).to(self.device)

        self.start = [on(start) for start in index.child_start]
        self.parent = [on(np.repeat(np.arange(len(s) - 1), np.diff(s))) for s in index.child_start]
        self.code = [on(codes) for codes in index.codes]
        self._keys = [p * size + c for p, c, size in zip(self.parent, self.code, self.sizes, strict=True)]  # rising
        self.sid = [on(numbers) for numbers in index.sid_of]
        first = np.cumsum([0, *self.sizes[:-1]])
        table = index.table
        length = np.linalg.norm(reconstruct(np.split(centroids, first[1:]), table), axis=1)
        self.inverse_length = torch.from_numpy(1 / np.where(length > 1e-6, length, 1)).float().to(self.device)
        self.table = [on(np.maximum(table[:, level], 0)) for level in range(len(self.sizes))]
        self.has = (
            None if self.fixed else [torch.from_numpy(table[:, k] >= 0).to(self.device) for k in range(len(first))]
        )

    def __deepcopy__(self, memo: dict[int, object]) -> Legal:
        """Nothing in here changes, so copies of a model share it."""
        return self

    def to(self, device: torch.device) -> Legal:
        return self if device == self.device else Legal(self.index, self.centroids, device)

    def child(self, depth: int, prefixes: Tensor, codes: Tensor) -> Tensor:
        """int64 ids at ``depth`` + 1 of ``prefixes`` (any shape, −1 = none) followed by ``codes``; −1 = not live."""
        keys, wanted = self._keys[depth], prefixes * self.sizes[depth] + codes
        if not len(keys):
            return torch.full_like(wanted, -1)
        at = torch.searchsorted(keys, wanted.contiguous()).clamp(max=len(keys) - 1)
        return torch.where((keys[at] == wanted) & (prefixes >= 0), at, -1)


@dataclass
class Prior:
    """What B sentence vectors say of every prefix. ``mass[d]`` (n_d, B) is S of the prefixes of depth d, ``leaf``
    (n_sids, B) the score s of every SID."""

    legal: Legal
    mass: list[Tensor]
    leaf: Tensor
    strength: Tensor  # (L,)

    def logits(self, depth: int, prefixes: Tensor, owner: Tensor, eos: bool) -> Tensor:
        """(n, K) fp32, EOS as one more column with ``eos``: a_d · log p of what may follow ``prefixes`` (n,) int64 at
        ``depth`` (−1 = not in the index) under the prompts ``owner`` (n,)."""
        legal = self.legal
        live = prefixes >= 0
        at = prefixes.clamp(min=0)
        first = legal.start[depth][at]
        counts = (legal.start[depth][at + 1] - first) * live
        rows = torch.repeat_interleave(counts)
        children = torch.arange(len(rows), device=rows.device) + (first - (counts.cumsum(0) - counts))[rows]
        whole = self.mass[depth][at, owner]  # (n,)
        out = whole.new_full((len(prefixes), legal.sizes[depth] + eos), FLOOR)
        found = self.mass[depth + 1][children, owner[rows]] - whole[rows]
        out = out.index_put((rows, legal.code[depth][children]), found.clamp(min=FLOOR))
        if eos:
            numbers = legal.sid[depth][at]
            ends = (live & (numbers >= 0)).nonzero()[:, 0]
            stop = self.leaf[numbers[ends], owner[ends]] - whole[ends]
            out = out.index_put((ends, ends.new_tensor(-1)), stop.clamp(min=FLOOR))
        return self.strength[depth] * out


class Geometry(nn.Module):
    """The trained parts of the prior. ``dim``: width D of the sentence vector, ``hidden``: of the decoder."""

    def __init__(self, codebook_sizes: tuple[int, ...], dim: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.eye(dim))  # P
        self.codes = nn.ParameterList(nn.Parameter(torch.zeros(k, dim)) for k in codebook_sizes)  # C_l
        self.log_gate = nn.Parameter(torch.tensor(math.log(SCALE)))  # log g
        self.strength = nn.Parameter(torch.ones(len(codebook_sizes)))  # a_d
        self.token = nn.Parameter(torch.zeros(hidden, dim))  # what the decoder reads of q, at the prompt's last token
        self.legal: Legal | None = None

    @property
    def dim(self) -> int:
        return len(self.query)

    @torch.no_grad()
    def start(self, centroids: Tensor) -> None:
        """Begin at ``centroids`` (ΣK, D), all levels concatenated."""
        for codes, book in zip(self.codes, centroids.split([len(rows) for rows in self.codes]), strict=True):
            codes.copy_(book)

    def prior(self, vectors: Tensor) -> Prior:
        """(B, D) sentence vectors → the prior of every prefix, fp32. ``ValueError`` before :meth:`SidLM.use`."""
        if self.legal is None:
            raise ValueError(NO_INDEX)
        legal = self.legal = self.legal.to(vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):
            q = F.linear(vectors.float(), self.query)
            leaf: Tensor | float = 0.0
            for level, codes in enumerate(self.codes):
                scores = F.linear(codes, q)[legal.table[level]]  # (n_sids, B)
                leaf = leaf + (scores if legal.has is None else scores * legal.has[level][:, None])
            assert isinstance(leaf, Tensor)
            leaf = leaf * legal.inverse_length[:, None] * self.log_gate.exp()
            top = leaf.detach().amax(0) if len(leaf) else leaf.new_zeros(len(vectors))
            weight = (leaf - top).exp()
            mass = self._masses(legal, weight, top)
        return Prior(legal, mass, leaf, self.strength)

    @staticmethod
    def _masses(legal: Legal, weight: Tensor, top: Tensor) -> list[Tensor]:
        """S by depth from the SIDs' weights exp(s − top) (n_sids, B), the deepest prefixes first."""
        sums: list[Tensor] = []
        below: Tensor | None = None
        for depth in range(len(legal.sizes), -1, -1):
            here = weight.new_zeros(len(legal.sid[depth]), weight.shape[1])
            is_sid = (legal.sid[depth] >= 0).nonzero()[:, 0]
            if len(is_sid):
                here = here.index_add(0, is_sid, weight[legal.sid[depth][is_sid]])
            if below is not None:
                here = here.index_add(0, legal.parent[depth], below)
            below = here
            sums.append(here)
        return [total.clamp(min=1e-37).log() + top for total in reversed(sums)]

    def tokens(self, vectors: Tensor) -> Tensor:
        """(B, D) → (B, d): to be added to the embedding of each prompt's last token."""
        return F.linear(vectors.float(), self.token)
