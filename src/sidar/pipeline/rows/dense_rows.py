"""The dense channels of a report: exact search, the dual-view index, or both, as ``dense.index``
says.

A row keeps its meaning whatever the catalogue's size: ``dense`` and ``dense-tuned`` are exact,
``dense-ivf`` and ``dense-tuned-ivf`` go through cells (docs/methods/sci.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from sidar.answer.facts import dense_probes, read_facts
from sidar.artifacts import read_manifest, write_artifact
from sidar.baselines import DEPTH, Dense, System
from sidar.baselines.dense import Encoder
from sidar.config import Config
from sidar.embed import Embedder, TowerEmbedder, load_items, query_side
from sidar.evaluate.systems import TextSystem
from sidar.index.dual_view import DualViewIndex
from sidar.types import Hits, Json

#: ``dense.index: auto`` searches exactly up to this many items.
EXACT_LIMIT = 100_000


class DualViewDense:
    """Text in, items out of a :class:`~sidar.index.dual_view.DualViewIndex`, which is made when
    first asked.
    """

    def __init__(
        self, make: Callable[[], DualViewIndex], encoder: Encoder, nprobe: int, how: str
    ) -> None:
        self._make, self._encoder, self.nprobe, self._how = make, encoder, nprobe, how

    @cached_property
    def index(self) -> DualViewIndex:
        return self._make()

    @property
    def about(self) -> str:
        return (
            f"dual-view index: {self.nprobe} of {len(self.index.centroids)} lists, cells from the "
            f"{self.index.coarse_view} view, {self._how}"
        )

    def search(self, queries: Sequence[str], k: int = DEPTH) -> Hits:
        """The k best items in the lists that each query text is led to."""
        return self.index.search(self._encoder.encode(list(queries)), min(k, DEPTH), self.nprobe)


def dense_rows(
    cfg: Config,
    folder: Path,
    embedder: Embedder,
    alive: np.ndarray,
    name: str = "dense",
    how: str = "zero-shot",
) -> dict[str, TextSystem]:
    """Return the rows of the vectors in ``folder``: ``name`` (exact), ``name-ivf``, or both.

    ``embedder`` is the one that made them. Indexes are kept beside the folder in ``.dense-index``
    and made again where vectors or options changed; deleting that folder is always safe.
    """
    queries, two_views = query_side(embedder), isinstance(embedder, TowerEmbedder)
    views = [load_items(folder), *([load_items(folder, "query")] if two_views else [])]
    exact, ivf = channels(cfg.dense.index, len(views[0]), two_views)
    rows: dict[str, TextSystem] = {}
    if exact:
        rows[name] = TextSystem(name, Dense(views[0], queries, alive=alive, how=how))
    if ivf:
        label = f"{name}-ivf"
        channel = DualViewDense(
            lambda: _kept_index(cfg, folder, views, alive), queries, cfg.dense.nprobe, how
        )
        rows[label] = TextSystem(label, channel)
    return rows


def channels(index: str, n_items: int, two_views: bool) -> tuple[bool, bool]:
    """Whether there is an exact row and whether there is an indexed one.

    ``auto``: exact up to :data:`EXACT_LIMIT` items, indexed above; two towers have their indexed
    row at any size.
    """
    if index == "auto":
        return n_items <= EXACT_LIMIT, n_items > EXACT_LIMIT or two_views
    return index in ("exact", "both"), index in ("ivf", "both")


def answer_dense(
    cfg: Config, folder: Path, embedder: Embedder, alive: np.ndarray
) -> tuple[System, DualViewIndex | None, Json]:
    """The dense channel over the vectors in ``folder`` to fit the answer with: the run's encoder as
    it is, exact where there is an exact row.

    Also its index, None = exact search, and what ``answer.json`` says of it.
    """
    rows = dense_rows(cfg, folder, embedder, alive)
    channel = next(iter(rows.values())).channel
    if not isinstance(channel, DualViewDense):
        return TextSystem("dense", channel), None, {"index": "exact"}
    return TextSystem("dense", channel), channel.index, {"index": "ivf", "nprobe": channel.nprobe}


def served_dense(inputs: Mapping[str, Path], embedder: Embedder, alive: np.ndarray) -> System:
    """Return the dense channel that the stage ``answer`` was fitted with, as a bundle has it."""
    items, queries = load_items(inputs["embed"]), query_side(embedder)
    nprobe = dense_probes(read_facts(inputs["answer"]))
    if nprobe is None:
        return TextSystem("dense", Dense(items, queries, alive=alive))
    index = DualViewIndex.load(inputs["answer"], items, alive=alive)
    return TextSystem("dense", DualViewDense(lambda: index, queries, nprobe, "zero-shot"))


def _kept_index(
    cfg: Config, vectors: Path, views: Sequence[np.ndarray], alive: np.ndarray
) -> DualViewIndex:
    """Return the index kept for the folder ``vectors``, or a new one; ``views``: f_i(I) and, of two
    towers, f_q(I).
    """
    stage = vectors.name
    manifest, folder = read_manifest(vectors), vectors.parent / ".dense-index" / stage
    wanted = {
        "coarse_view": cfg.dense.coarse_view,
        "lists": cfg.dense.lists,
        "seed": cfg.seed,
        "alive": hashlib.sha256(np.packbits(alive).tobytes()).hexdigest(),
    }
    inputs = {stage: manifest.hash if manifest else "unknown"}
    kept = read_manifest(folder)
    if manifest is not None and kept is not None and (kept.config, kept.inputs) == (wanted, inputs):
        return DualViewIndex.load(folder, views[0])
    index = DualViewIndex.build(
        *views, coarse_view=cfg.dense.coarse_view, lists=cfg.dense.lists, alive=alive, seed=cfg.seed
    )
    with write_artifact(folder, "dense-index", config=wanted, inputs=inputs) as draft:
        index.save(draft.path)
        draft.shapes.update(items=int((index.lists >= 0).sum()), lists=len(index.centroids))
    return index
