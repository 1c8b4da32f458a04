"""What one model says of labelled lists, as arrays: every figure of the mechanisms is a function of
these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from experiments.raddpo.labels import LabelledList
from sidar.align.rdrw import Quartiles, similarity_weight, star_similarity
from sidar.align.terms import mean_logp, shared_prefix, sum_logp
from sidar.lm.model import SidLM
from sidar.lm.packing import pack, score

#: What RDRW may compare (config ``align.rdrw_state``).
STATES = ("eos_out", "last_code", "item_vector")


@dataclass(frozen=True)
class Truth:
    """What is known of B lists of at most C candidates (unrelated SIDs last), whatever the model.

    Arrays (B, C).
    """

    positive: np.ndarray  # bool
    negative: np.ndarray  # bool
    unrelated: np.ndarray  # bool
    pseudo: np.ndarray  # bool, among the negatives
    grade: np.ndarray  # NaN where there is no candidate, and for unrelated SIDs
    position: np.ndarray  # 0 = unknown
    row: np.ndarray  # −1 = none
    star: np.ndarray  # (B,)

    @classmethod
    def of(cls, lists: Sequence[LabelledList]) -> Truth:
        """The lists' labels as arrays. y_w* is the first listed of the top tier, as in packing."""
        shape = (len(lists), max(len(x.example.candidates) + len(x.unrelated) for x in lists))
        no = np.zeros(shape, bool)
        made = cls(
            no.copy(),
            no.copy(),
            no.copy(),
            no.copy(),
            np.full(shape, np.nan),
            np.zeros(shape, np.int64),
            np.full(shape, -1),
            np.zeros(shape[0], np.int64),
        )
        for b, one in enumerate(lists):
            listed = one.example.candidates
            n = len(listed)
            made.positive[b, :n] = [c.is_positive for c in listed]
            made.negative[b, :n] = ~made.positive[b, :n]
            made.unrelated[b, n : n + len(one.unrelated)] = True
            made.pseudo[b, :n] = one.pseudo
            made.grade[b, :n] = one.grade
            if one.positions:
                made.position[b, :n] = one.positions
            if one.rows:
                made.row[b, :n] = one.rows
            made.star[b] = np.argmax([c.tier if c.is_positive else -1 for c in listed])
        return made

    def of_star(self, values: np.ndarray) -> np.ndarray:
        """(B, …) the entry of y_w* in ``values`` (B, C, …)."""
        return values[np.arange(len(values)), self.star]


@dataclass(frozen=True)
class Measured:
    """What a model says of the same lists. Arrays (B, C), NaN where there is no candidate."""

    logp: np.ndarray  # log π(y|x)
    reward: np.ndarray  # log π(y|x) / |y|
    prefix: np.ndarray  # leading tokens shared with y_w*, −1 where there is no candidate
    similarity: dict[str, np.ndarray]  # state → cosine with y_w*'s
    top: np.ndarray  # (B,) largest probability of a first code
    entropy: np.ndarray  # (B,) of the first code, nats


@torch.no_grad()
def measure(
    model: SidLM, lists: Sequence[LabelledList], *, states: bool = True, batch: int = 48
) -> Measured:
    """Score every candidate and unrelated SID of ``lists`` once; ``states=False`` leaves
    ``similarity`` empty.

    The mode of ``model`` is left as it was; nothing is recorded for gradients.
    """
    shape = (len(lists), max(len(x.example.candidates) + len(x.unrelated) for x in lists))
    logp, reward = np.full(shape, np.nan), np.full(shape, np.nan)
    prefix = np.full(shape, -1)
    similarity = {name: np.full(shape, np.nan) for name in STATES} if states else {}
    top, entropy = np.full(shape[0], np.nan), np.full(shape[0], np.nan)
    # little padding in a batch
    by_length = np.argsort([x.example.length for x in lists], kind="stable")
    was_training = model.training
    model.eval()
    for at in range(0, len(lists), batch):
        chosen = by_length[at : at + batch]
        rows = [lists[b] for b in chosen]
        packed = pack(
            [x.example.tokens for x in rows],
            [[*x.example.candidates, *x.unrelated] for x in rows],
            model.vocab,
        ).to(model.device)
        # Both states of every candidate out of one forward: `hidden` becomes (B, 2C, d).
        both = replace(
            packed, last_state=torch.cat([packed.last_state, packed.before_last_state], 1)
        )
        scores = score(model, both, rdrw_state="eos_out" if states else None)
        real = packed.is_candidate.cpu().numpy()
        width = real.shape[1]

        def put(
            table: np.ndarray, values: torch.Tensor, chosen=chosen, real=real, width=width
        ) -> None:
            found = values.float().cpu().numpy()
            table[chosen, :width] = np.where(real, found, table[chosen, :width])

        put(logp, sum_logp(scores.logp, scores.mask))
        put(reward, mean_logp(scores.logp, scores.mask))
        put(prefix, shared_prefix(scores))
        if states:
            by_name = {
                "eos_out": scores.hidden[:, :width],
                "last_code": scores.hidden[:, width:],
                "item_vector": model.item_vectors(packed.step_tokens),
            }
            for name, hidden in by_name.items():
                put(similarity[name], star_similarity(hidden, scores.star))
        first = scores.first_logp.float()
        top[chosen] = first.amax(-1).exp().cpu().numpy()
        entropy[chosen] = -(first.exp() * first).nan_to_num().sum(-1).cpu().numpy()
    model.train(was_training)
    return Measured(logp, reward, prefix, similarity, top, entropy)


def embedding_similarity(truth: Truth, vectors: np.ndarray) -> np.ndarray:
    """(B, C) cosine of each candidate's item embedding with that of y_w*'s item; ``vectors`` (N,
    D). NaN = no row.
    """
    rows = np.where(truth.row >= 0, truth.row, 0)
    found = np.asarray(vectors[np.unique(rows)], np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    each = unit[np.searchsorted(np.unique(rows), rows)]  # (B, C, D)
    cosine = np.einsum("bcd,bd->bc", each, truth.of_star(each))
    return np.where((truth.row >= 0) & (truth.of_star(truth.row) >= 0)[:, None], cosine, np.nan)


def quartiles(values: np.ndarray) -> Quartiles:
    """Q25, Q50, Q75 of ``values`` (n,); NaNs where there are none."""
    if not len(values):
        return (float("nan"),) * 3
    q = np.quantile(values, (0.25, 0.5, 0.75))
    return float(q[0]), float(q[1]), float(q[2])


def eq6(similarities: np.ndarray, anchors: Quartiles, lam: float) -> np.ndarray:
    """RDRW's weights, same shape; 1 where a pair has no similarity, as in training."""
    found = similarity_weight(torch.from_numpy(similarities), anchors, lam).numpy()
    return np.where(np.isfinite(similarities), found, 1.0)
