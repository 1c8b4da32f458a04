"""Validation during training: likelihood and recall@8 of what was clicked on the validation day."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sidar.align import list_statistics, multi_label_sft
from sidar.decode import beam_search
from sidar.decode.trie import Trie
from sidar.index import PrefixIndex
from sidar.lm.model import SidLM
from sidar.lm.packing import pack, score
from sidar.lm.scorer import LmScorer
from sidar.precision import Precision, autocast
from sidar.train.examples import Example


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
            found = {"nll": multi_label_sft(scores)}
            if any(x.is_list for x in rows):
                found |= list_statistics(scores)
                found.pop("pairs/count", None)
            for name, value in found.items():
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
            found = {tuple(c[:n].tolist()) for c, n in zip(codes, lengths, strict=True) if n > 0}
            wanted = {c.codes for c in example.candidates if c.is_positive}
            recalls.append(len(found & wanted) / len(wanted))
        return float(np.mean(recalls))
