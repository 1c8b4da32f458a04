"""``sid.method: table``: IDs that others made, brought through the pipeline as they are.

The table (:mod:`sidar.sid.published`) says which item has which codes. It says nothing about
vectors, so the codebooks are stand-ins (:mod:`sidar.sid.codebooks.standin`): with them the model
starts from centroids, ``quantised-dense`` has a row, and items that the table lacks can be encoded:
at each level the nearest code that some item of the table carries [ours]. An item that *is* in the
table always keeps the table's SID, whatever its text says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch

from sidar.config import SidConfig
from sidar.sid.codebooks.kmeans import nearest
from sidar.sid.codebooks.standin import standin_codebooks
from sidar.sid.published import Published, read_published, write_published
from sidar.sid.tokenizer import (
    Tokenizer,
    checked_vectors,
    read_description,
    register_tokenizer,
    write_description,
)
from sidar.types import Json, PathLike, SemanticIds, SidInputs

TABLE = "imported.parquet"


@register_tokenizer("table")
class TableTokenizer(Tokenizer):
    """A published table with stand-in codebooks. ``fit`` reads the table's codes of the items and
    averages vectors.

    ``missing``: what becomes of items of the catalogue that the table lacks: ``error`` names the
    first, ``encode`` gives them the nearest codes. ``unknown``: the same for items of the table
    that the catalogue lacks: ``error``, or ``drop`` (they are kept aside: one that joins the
    catalogue later gets its SID).
    """

    has_own_sizes = True  # codebook sizes come from the table; the stage does not try others

    def __init__(
        self,
        table: Published,
        *,
        missing: str = "error",
        unknown: str = "drop",
    ) -> None:
        super().__init__(table.codebook_sizes)
        self.table = table
        self.missing = missing
        self.unknown = unknown
        self._row_of = {item: row for row, item in enumerate(table.item_ids)}

    @classmethod
    def from_config(
        cls, config: SidConfig, codebook_sizes: Sequence[int], seed: int, device: str = "cpu"
    ) -> Self:
        """The table that ``sid.table.path`` names; ``sid.codebook_sizes`` may state more codes than
        it uses.
        """
        if not config.table.path:
            raise ValueError(
                "sid.method: table needs sid.table: the file with the SIDs (JSON, JSON lines, "
                "CSV, Parquet)"
            )
        table = read_published(config.table.path, config.codebook_sizes, config.table.columns)
        return cls(table, missing=config.table.missing, unknown=config.table.unknown)

    def fit(self, inputs: SidInputs) -> Self:
        """Match items and table, then average the vectors (N, D) by code into ``codebooks_``.

        ``ValueError`` names the first item of one side that the other lacks, as far as the policy
        forbids it.
        """
        vectors = checked_vectors(inputs)
        place = self._places(inputs)
        ids = _ids(inputs)
        if not len(ids) or (place < 0).all():
            raise ValueError(
                f"the SID table has none of the catalogue's {len(ids)} items (it has "
                f"{self.table.item_ids[0]!r}, the catalogue "
                f"{ids[0] if len(ids) else 'nothing'!r}); are its keys the catalogue's item_id?"
            )
        if self.missing == "error" and (place < 0).any():
            first = ids[int((place < 0).argmax())]
            raise ValueError(
                f"item {first!r} of the catalogue is not in the SID table ({(place < 0).sum():,} "
                "such items); complete the table, or set sid.table.missing: encode to give them "
                "the nearest codes"
            )
        if self.unknown == "error" and (extra := set(self.table.item_ids) - set(ids)):
            first = next(item for item in self.table.item_ids if item in extra)
            raise ValueError(
                f"item {first!r} of the SID table is not in the catalogue ({len(extra):,} such "
                "items); add it, or set sid.table.unknown: drop"
            )
        has = place >= 0
        self.codebooks_ = standin_codebooks(
            vectors[has], self.table.codes[place[has]], self.codebook_sizes
        )
        return self

    def encode(self, inputs: SidInputs) -> SemanticIds:
        """The table's SIDs where ``inputs.item_ids`` names one of its items, else the nearest
        codes, all levels.

        A level that only some SIDs have (a token that parts collisions) is left out of nearest
        codes: it carries no meaning that a vector could decide.
        """
        if not self.codebooks_:
            raise ValueError("this table has no codebooks yet; call fit first")
        vectors = checked_vectors(inputs, self.codebooks_[0].shape[1])
        place = (
            np.full(len(vectors), -1, np.int64) if inputs.item_ids is None else self._places(inputs)
        )
        codes = np.full((len(vectors), len(self.codebook_sizes)), -1, np.int32)
        known = place >= 0
        codes[known] = self.table.codes[place[known]]
        codes[~known, : self._full] = self._nearest(vectors[~known])
        return SemanticIds(
            codes,
            (codes >= 0).sum(axis=1).astype(np.int32),
            self.codebook_sizes,
            method=self.method,
        )

    @property
    def _full(self) -> int:
        """Levels that every SID of the table has."""
        return int((self.table.codes >= 0).sum(axis=1).min())

    def _nearest(self, vectors: np.ndarray) -> np.ndarray:
        """(n, levels that all SIDs have) int32: level by level the nearest code that the table
        uses.
        """
        residual = torch.tensor(vectors)
        found = np.zeros((len(vectors), self._full), np.int32)
        for level in range(self._full):
            used = np.unique(self.table.codes[:, level])
            book = torch.from_numpy(self.codebooks_[level][used])
            chosen, _ = nearest(residual, book)
            found[:, level] = used[chosen.numpy()]
            residual -= book[chosen]
        return found

    def _places(self, inputs: SidInputs) -> np.ndarray:
        """(N,) row of the table of each item, −1 where it has none."""
        return np.fromiter((self._row_of.get(item, -1) for item in _ids(inputs)), np.int64)

    def params(self) -> Json:
        return {"missing": self.missing, "unknown": self.unknown, "names": list(self.table.names)}

    def save(self, folder: PathLike) -> None:
        """Write ``imported.parquet`` (the whole table), ``codebooks.safetensors`` and
        ``tokenizer.json``.
        """
        folder = Path(folder)
        write_published(folder / TABLE, self.table.item_ids, self.table.sids(), form="codes")
        self.save_codebooks(folder)
        write_description(folder, self)

    @classmethod
    def load(cls, folder: PathLike, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote."""
        params = read_description(folder)["params"]
        table = read_published(Path(folder) / TABLE)
        table = Published(
            table.item_ids, table.codes, table.codebook_sizes, tuple(params["names"]), table.method
        )
        tokenizer = cls(table, missing=params["missing"], unknown=params["unknown"])
        tokenizer.load_codebooks(folder)
        return tokenizer


def _ids(inputs: SidInputs) -> Sequence[str]:
    if inputs.item_ids is None:
        raise ValueError("an SID table is matched by item id: SidInputs needs item_ids")
    return inputs.item_ids
