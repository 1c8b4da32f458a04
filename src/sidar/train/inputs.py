"""What both training stages open: the dataset, the SID table, the index, and what
identifies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sidar.artifacts import read_manifest, sha256_file
from sidar.config import OptimConfig
from sidar.data import open_dataset
from sidar.data.dataset import Dataset
from sidar.index import PrefixIndex
from sidar.lm.prompts import PromptBuilder
from sidar.sid.table import load_sids
from sidar.train.examples import Example, ItemStream, LogStream, PseudoStream
from sidar.train.pseudo import ItemWords, item_words
from sidar.types import SemanticIds

#: Settings that change what is written down, not what is trained: an interrupted run may change
#: them.
_FREE = {"log_every", "checkpoint_every", "keep_checkpoints", "label"}


@dataclass(frozen=True)
class Inputs:
    """Opened once per stage."""

    data: Dataset
    sids: SemanticIds
    index: PrefixIndex

    @classmethod
    def open(cls, data_folder: Path, sid_folder: Path) -> Inputs:
        data = open_dataset(data_folder)
        sids = load_sids(Path(sid_folder) / "sids.parquet", data.catalogue.item_ids)
        return cls(data, sids, PrefixIndex.build(sids))

    def words(self) -> list[ItemWords]:
        """What pseudo-queries are made of, by row."""
        columns = (self.data.catalogue.column(name) for name in ("title", "category", "brand"))
        return [item_words(*parts) for parts in zip(*columns, strict=True)]

    def items(
        self, fields: Sequence[str], builder: PromptBuilder, vectors: np.ndarray | None = None
    ) -> ItemStream:
        """Item text → SID; ``vectors`` (N, D) where the model reads sentence vectors."""
        return ItemStream(
            self.data.item_text(list(fields)),
            self.sids,
            builder,
            self.data.catalogue.alive,
            vectors,
        )

    def pseudo(self, builder: PromptBuilder, seed: int, max_positives: int) -> PseudoStream:
        """Pseudo-query → SIDs."""
        alive = self.data.catalogue.alive
        return PseudoStream(
            self.words(), self.sids, builder, alive, seed, max_positives=max_positives
        )

    def valid_lists(
        self,
        builder: PromptBuilder,
        limit: int,
        max_positives: int,
        max_negatives: int,
        table: pa.Table | None = None,
    ) -> list[Example]:
        """At most ``limit`` preference lists of the validation day, evenly spread over it;
        ``table`` holds them where their prompts are to be others than the log's.
        """
        stream = LogStream(
            self.data.lists("valid") if table is None else table,
            self.sids,
            builder,
            max_positives=max_positives,
            max_negatives=max_negatives,
            is_list=True,
        )
        chosen = np.unique(
            np.linspace(0, max(len(stream) - 1, 0), min(limit, len(stream))).astype(int)
        )
        return stream.rows(chosen.tolist()) if len(stream) else []


def hash_of(folder: Path, files: Sequence[str]) -> str:
    """What ``folder`` holds: its manifest's hash, or those of ``files`` where no pipeline wrote a
    manifest.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        return manifest.hash
    return "+".join(sha256_file(Path(folder) / f) for f in files if (Path(folder) / f).is_file())


def binding(part: OptimConfig) -> dict[str, object]:
    """The settings of a stage that an interrupted run must keep."""
    return {k: v for k, v in part.model_dump(mode="json").items() if k not in _FREE}
