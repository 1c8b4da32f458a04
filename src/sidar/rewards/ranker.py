"""The reward ``ranker``: how likely a logged request chooses an item, by the ranker of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from sidar.answer.key import FILE as KEY_FILE
from sidar.answer.key import find_key
from sidar.answer.memory import Memory
from sidar.baselines import Bm25
from sidar.config import EmbedConfig
from sidar.embed import load_embedder, load_items, query_side
from sidar.ranker.calibration import Calibration
from sidar.ranker.features import FeatureMaker, Pairs
from sidar.ranker.knowledge import ItemFacts, Known, log_shares
from sidar.ranker.requests import own_counts
from sidar.ranker.store import Ranker
from sidar.rewards.interface import ItemReward, LoggedRequest, RewardInputs
from sidar.rewards.registry import register_reward


@register_reward("ranker")
class RankerReward(ItemReward):
    """P(chosen | shown) of an item, calibrated on the validation day; 0 for what is no SID.

    The ranker reads counts of training days alone, and of these not what the request chose itself.
    It reads neither log π nor anything that needs a search: BM25, cosines and counts are looked up
    for the given items.
    """

    def fit(self, inputs: RewardInputs) -> Self:
        """Open the ranker of the run; ``ValueError`` says how to make one."""
        super().fit(inputs)
        folder = Path(inputs.run) / "ranker"
        self._ranker = Ranker.load(folder, "reward")
        facts, catalogue = self._ranker.facts, inputs.dataset.catalogue
        secret = find_key([facts["key_file"] or Path(inputs.run) / KEY_FILE])
        if secret is None:
            raise ValueError(
                f"{folder} counts queries under a key that is not there any more; put {KEY_FILE} "
                f"of the run into {inputs.run}, or set SIDAR_MEMORY_KEY"
            )
        memory = Memory.load(folder).check(secret, catalogue.lineage, str(folder))
        clicks = inputs.dataset.priors().clicks
        shares = log_shares(inputs.index, clicks, self.alive)
        known = Known(ItemFacts.of(catalogue), memory, secret, clicks, shares)
        vectors = load_items(Path(inputs.run) / "embed")
        lexical = Bm25.load(folder, self.alive)
        self._maker = FeatureMaker(self._ranker.columns, known, lexical, vectors)
        embed = EmbedConfig(**facts["embed"])
        self._encoder = query_side(load_embedder(embed, inputs.device))
        self._calibration = Calibration(*facts["calibration"])
        self._vectors: dict[str, np.ndarray] = {}
        return self

    def item_scores(self, request: LoggedRequest, rows: np.ndarray) -> np.ndarray:
        return self.batch_scores([request], [rows])[0]

    def batch_scores(
        self, requests: Sequence[LoggedRequest], rows: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the rewards of each request's rows, scored together."""
        prompts = [request.prompt for request in requests]
        pairs = Pairs.of(rows)
        own = [own_counts(request.tiers) for request in requests]
        vectors = self._encode([prompt.query for prompt in prompts])
        features = self._maker.table(prompts, vectors, pairs, own=own)
        scores = self._calibration(self._ranker.scores(features))
        return [scores[pairs.of_request(r)] for r in range(len(requests))]

    def _encode(self, queries: Sequence[str]) -> np.ndarray:
        """(B, D) vectors of the queries; each is encoded once."""
        missing = [query for query in dict.fromkeys(queries) if query not in self._vectors]
        if missing:
            found = self._encoder.encode(missing)
            self._vectors |= dict(zip(missing, found, strict=True))
        return np.stack([self._vectors[query] for query in queries])
