"""Validation during training: likelihood and recall@8 of what was clicked on the validation day; of
an encoder nDCG@10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from sidar.align import list_statistics, multi_label_sft
from sidar.config import DenseConfig
from sidar.decode import beam_search
from sidar.decode.trie import Trie
from sidar.embed import Embedder, query_side
from sidar.evaluate.measures.metrics import objective
from sidar.evaluate.slices import subset_by_hash
from sidar.evaluate.views import linear_cka, modality_gap, self_ranks
from sidar.index import PrefixIndex
from sidar.lm.model import SidLM
from sidar.lm.packing import pack, score
from sidar.lm.scorer import LmScorer
from sidar.precision import Precision, autocast
from sidar.train.examples import Example
from sidar.types import Catalogue, EvalSet, Hits


class Validator:
    """Scores a fixed set of examples under the model as it is now, without touching its gradients.

    ``nll`` is eq. 1 of RAD-DPO (nats per prompt), ``recall@8`` the share of a prompt's positive
    SIDs among the best 8 of a beam of ``beam``, averaged over prompts.  For preference lists also
    ``pairs/*`` and ``logp/*`` (:func:`sidar.align.list_statistics`), averaged over batches.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        index: PrefixIndex,
        *,
        beam: int = 8,
        batch: int = 64,
        precision: Precision = "auto",
    ) -> None:
        self.examples = sorted(examples, key=lambda x: x.length)
        self.index, self.beam, self.batch, self.precision = index, beam, batch, precision
        self._trie: Trie | None = None

    def __call__(self, model: SidLM) -> dict[str, float]:
        """The scalars; none where there is nothing to validate on."""
        if not self.examples:
            return {}
        was_training = model.training
        model.eval()
        try:
            return {**self._likelihood(model), "recall@8": self._recall(model)}
        finally:
            model.train(was_training)

    @torch.no_grad()
    def _likelihood(self, model: SidLM) -> dict[str, float]:
        totals: dict[str, list[tuple[float, int]]] = {}
        for at in range(0, len(self.examples), self.batch):
            rows = self.examples[at : at + self.batch]
            packed = pack([x.tokens for x in rows], [x.candidates for x in rows], model.vocab).to(
                model.device
            )
            with autocast(model.device, self.precision):
                scores = score(model, packed)
            scores.eos_logp = None  # training only: an SID of full length is over with certainty
            figures = {"nll": multi_label_sft(scores)}
            if any(x.is_list for x in rows):
                figures |= list_statistics(scores)
                figures.pop("pairs/count", None)
            for name, value in figures.items():
                totals.setdefault(name, []).append((float(value), len(rows)))
        return {
            name: sum(v * n for v, n in parts) / sum(n for _, n in parts)
            for name, parts in totals.items()
        }

    def _recall(self, model: SidLM) -> float:
        if self._trie is None:
            self._trie = Trie(self.index, model.device)
        scorer = LmScorer(model, precision=self.precision)
        beams = beam_search(scorer, [x.tokens for x in self.examples], self._trie, self.beam, 8)
        recalls = []
        for codes, lengths, example in zip(
            beams.codes[:, :8], beams.lengths[:, :8], self.examples, strict=True
        ):
            best = {tuple(c[:n].tolist()) for c, n in zip(codes, lengths, strict=True) if n > 0}
            wanted = {c.codes for c in example.candidates if c.is_positive}
            recalls.append(len(best & wanted) / len(wanted))
        return float(np.mean(recalls))


#: Results per validation query: nDCG@10 looks no further.
DEPTH = 10

Validation = Callable[[Embedder], dict[str, float]]


def validation(
    sets: Sequence[EvalSet],
    catalogue: Catalogue,
    texts: Sequence[str],
    dense: DenseConfig,
    batch_size: int = 32,
) -> Validation | None:
    """``embedder -> {set: nDCG@10}`` on at most ``valid_queries`` per set; None where the sets hold
    no query.

    Ranked are all live items that these queries judge and then, up to ``valid_items``, evenly
    spaced others: on a large catalogue the figure is kinder than a search of all items, and good
    for choosing a step.
    """
    chosen = _asked(sets, dense.valid_queries)
    if not chosen:
        return None
    rows = _ranked_rows(chosen, catalogue, dense.valid_items)
    ranked = [texts[int(row)] for row in rows]
    goals = [(one, objective(one, catalogue, f"ndcg@{DEPTH}")) for one in chosen]

    def validate(embedder: Embedder) -> dict[str, float]:
        items = embedder.encode(ranked, batch_size)
        figures = {}
        for one, goal in goals:
            asked = [prompt.query for prompt in one.prompts]
            queries = query_side(embedder).encode(asked, batch_size)
            best = np.argsort(-(queries @ items.T), axis=1, kind="stable")[:, :DEPTH]
            hits = Hits(rows[best].astype(np.int32), np.zeros(best.shape, np.float32))
            figures[one.name] = goal(hits)
        return figures

    return validate


def _asked(sets: Sequence[EvalSet], most: int) -> list[EvalSet]:
    """Return the sets with at most ``most`` of their queries that have text, chosen by hash."""
    chosen = []
    for one in sets:
        with_text = [q for q, prompt in enumerate(one.prompts) if prompt.query.strip()]
        kept = subset_by_hash([one.query_ids[q] for q in with_text], most)
        queries = [with_text[i] for i in kept]
        if queries:
            ids = tuple(one.query_ids[q] for q in queries)
            prompts = tuple(one.prompts[q] for q in queries)
            chosen.append(EvalSet(one.name, ids, prompts, one.qrels, one.origin))
    return chosen


def _ranked_rows(sets: Sequence[EvalSet], catalogue: Catalogue, most: int) -> np.ndarray:
    """Return the live rows that ``sets`` judge and, up to ``most``, evenly spaced others."""
    judged = {item for one in sets for query in one.query_ids for item in one.qrels.get(query, {})}
    wanted = np.zeros(len(catalogue), bool)
    wanted[[row for row in catalogue.rows(sorted(judged)) if row >= 0]] = True
    others = np.flatnonzero(catalogue.alive & ~wanted)
    room = min(max(most - int((wanted & catalogue.alive).sum()), 0), len(others))
    wanted[others[np.linspace(0, len(others) - 1, room).astype(int)]] = True
    return np.flatnonzero(wanted & catalogue.alive)


def apart(items: np.ndarray, seen: np.ndarray, most: int = 4096) -> dict[str, float]:
    """How far f_i(I) and f_q(I) lie apart, on ``most`` evenly spaced rows: what the swap is meant
    to bring together.
    """
    if not len(items):
        return {}
    rows = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).astype(int))
    one, other = np.asarray(items[rows]), np.asarray(seen[rows])
    first = float((self_ranks(other, one) <= 1).mean())
    return {
        "gap": modality_gap(one, other),
        "cka": linear_cka(one, other),
        "find_themselves": first,
    }
