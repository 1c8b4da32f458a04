"""The lists that requests were shown, as a ranker is calibrated and diagnosed on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.ranker.diagnosis import Shown
from sidar.ranker.features import Pairs
from sidar.types import Request

if TYPE_CHECKING:
    from sidar.pipeline.rows.ranker_parts import RankerParts

#: What the simulator knows of every shown item; it lies beside the log that it wrote.
TRUTH = "truth.parquet"


@dataclass(frozen=True)
class ShownLists:
    """The live items that requests were shown: ``pairs``, and of each item (n,) whether it was
    ``chosen`` and its ``position``, 0 = unknown.
    """

    pairs: Pairs
    chosen: np.ndarray
    position: np.ndarray

    @classmethod
    def of(cls, requests: Sequence[Request], alive: np.ndarray) -> ShownLists:
        """Read the lists of ``requests``."""
        rows, chosen, position = [], [], []
        for one in requests:
            live = alive[np.asarray(one.rows, np.int64)]
            rows.append(np.asarray(one.rows, np.int64)[live])
            chosen.append(np.asarray(one.actions, np.int64)[live] > 0)
            position.append(np.asarray(one.positions, np.int64)[live])
        if not rows:
            return cls(Pairs.of([]), np.empty(0, bool), np.empty(0, np.int64))
        return cls(Pairs.of(rows), np.concatenate(chosen), np.concatenate(position))

    def shown(self, parts: RankerParts, requests: Sequence[Request], score: np.ndarray) -> Shown:
        """Return what a diagnosis reads; ``score`` (n,) of the ranker."""
        priors = parts.dataset.priors()
        rows = self.pairs.rows
        truth = self._truth(parts, requests)
        return Shown(
            self.pairs.starts,
            score,
            self.chosen,
            self.position,
            priors.popularity()[rows].astype(str),
            priors.prior[rows].astype(np.float64),
            None if truth is None else truth["relevance"],
            None if truth is None else truth["p_click"],
        )

    def _truth(
        self, parts: RankerParts, requests: Sequence[Request]
    ) -> dict[str, np.ndarray] | None:
        """(n,) relevance and true click rate of each shown item; None for a log of people, and
        where the simulator's file does not know all of them.
        """
        events = parts.cfg.events
        path = Path(events.path).parent / TRUTH
        if events.origin != "simulated" or not path.is_file():
            return None
        columns = ["request_id", "item_id", "relevance", "p_click"]
        table = pq.read_table(path, columns=columns)
        ids = [one.request_id for one in requests]
        asked_for = pa.array(ids, pa.string())
        table = table.filter(pc.is_in(table.column("request_id"), value_set=asked_for))
        catalogue = parts.dataset.catalogue
        rows = catalogue.rows(table.column("item_id").to_pylist()).tolist()
        keys = zip(table.column("request_id").to_pylist(), rows, strict=True)
        place = {key: at for at, key in enumerate(keys)}
        asked = np.repeat(np.arange(len(ids)), self.pairs.sizes).tolist()
        wanted = [
            place.get((ids[r], row)) for r, row in zip(asked, self.pairs.rows.tolist(), strict=True)
        ]
        known = [at for at in wanted if at is not None]
        if len(known) < len(wanted):
            return None
        at = np.asarray(known, np.int64)
        return {name: table.column(name).to_numpy()[at] for name in ("relevance", "p_click")}
