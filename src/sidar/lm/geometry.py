"""The start at the geometry: level heads that also read the query's sentence vector, from the codes' centroids.

A model from scratch learns in its first minutes what the codes' geometry says anyway, and on a large catalogue little
more (docs/grown.md). So the sentence vector q of the prompt is led past the decoder to the level heads [ours]:

    logits_l = W_l h + g_l · C_l (P q),        C_l = the level's centroids, P = identity, W_l = 0 at the start

The second term does not depend on the prefix, so neither does its log-normaliser, and at step 0

    log π(y | x) = Σ_l g · q·c_l(y_l) − Σ_l log Z_l(q) = g · q·Σ_l c_l(y_l) + const:

SIDs come in the order of the inner product of q with the sum of their centroids, quantised dense, exactly. Everything
is trained from there: C_l and P as a linear retriever, the decoder as what corrects it, with what the prefix says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: g at the start: the inverse temperature at which unit vectors of sentence encoders are trained [known: 1 / .05].
SCALE = 20.0


class Geometry(nn.Module):
    """The sentence vector's part of the level logits. ``dim``: width D of the vector, ``hidden``: of the decoder."""

    def __init__(self, codebook_sizes: Sequence[int], dim: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.eye(dim))  # P
        self.codes = nn.ParameterList(nn.Parameter(torch.zeros(k, dim)) for k in codebook_sizes)  # C_l
        self.gate = nn.Parameter(torch.full((len(codebook_sizes),), SCALE))  # g_l
        self.token = nn.Parameter(torch.zeros(hidden, dim))  # what the decoder reads of q, at the prompt's last token

    @property
    def dim(self) -> int:
        return len(self.query)

    @torch.no_grad()
    def start(self, centroids: Tensor) -> None:
        """Begin at ``centroids`` (ΣK, D), all levels concatenated."""
        for codes, book in zip(self.codes, centroids.split([len(codes) for codes in self.codes]), strict=True):
            codes.copy_(book)

    def logits(self, vectors: Tensor) -> list[Tensor]:
        """(B, D) sentence vectors → per level (B, K_l) fp32: to be added to the logits of every prefix."""
        with torch.autocast(vectors.device.type, enabled=False):
            q = F.linear(vectors.float(), self.query)
            return [gate * F.linear(q, codes) for gate, codes in zip(self.gate, self.codes, strict=True)]

    def tokens(self, vectors: Tensor) -> Tensor:
        """(B, D) → (B, d): to be added to the embedding of each prompt's last token."""
        return F.linear(vectors.float(), self.token)
