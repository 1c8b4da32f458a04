"""SCI's consistent dual-view index: cells and routing by the query encoder, scores against the item
encoder's vectors.

An inverted-file index (IVF) fits its cells on f_i(I) but is entered with f_q(Q): the coarse step
compares vectors of two encoders. With ``coarse_view="query"`` both sides of it come from f_q,

    μ = k-means of f_q(I),  list(I) = argmin ‖f_q(I) − μ‖,
    probed = the nprobe lists of least ‖f_q(Q) − μ‖,

and the fine step ranks the items of the probed lists by the trained score f_q(Q) · f_i(I). What is
kept is f_i(I), one list number per item and the centroids: the other view is read once, to build.
``item`` is the ordinary IVF, ``both`` takes cells from (f_q(I) + f_i(I)) / 2. [seed: "consistent
indexing with dual-view strategy", arXiv 2512.13074; the index itself is a reconstruction,
docs/methods/sci.md.] Inverted lists and scores are faiss's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sidar.types import Hits, PathLike

CoarseView = Literal["item", "query", "both"]
FILE, FACTS, FORMAT = "dual_view.safetensors", "dual_view.json", 1
TRAINING = 64  # points per cell that k-means sees
CHUNK = 1 << 16
_CHECKED = 1024  # rows in the checksum of the item vectors


@dataclass(frozen=True, eq=False)
class DualViewIndex:
    """Cells, the list of every item, and the item vectors; make it with :meth:`build` or
    :meth:`load`.

    Searches run on as many threads as torch: faiss and torch may share one OpenMP, so a number of
    its own would be torch's too (docs/findings.md).
    """

    items: np.ndarray  # (N, D) float32 f_i(I), possibly memory-mapped
    centroids: np.ndarray  # (C, D) float32
    lists: np.ndarray  # (N,) int32, −1 = not in the index
    coarse_view: CoarseView = "query"
    _ivf: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import faiss
        from faiss.contrib.ivf_tools import add_preassigned

        _use_torch_threads()
        cells, dim = self.centroids.shape
        coarse = faiss.IndexFlatL2(dim)
        coarse.add(np.ascontiguousarray(self.centroids, np.float32))
        ivf = faiss.IndexIVFFlat(coarse, dim, cells, faiss.METRIC_INNER_PRODUCT)
        rows = np.flatnonzero(self.lists >= 0)
        for start in range(0, len(rows), CHUNK):
            # a name: faiss keeps a bare pointer to the ids
            some = rows[start : start + CHUNK].astype(np.int64)
            vectors = np.ascontiguousarray(self.items[some], np.float32)
            add_preassigned(ivf, vectors, self.lists[some].astype(np.int64), some)
        object.__setattr__(self, "_ivf", ivf)

    @classmethod
    def build(
        cls,
        items: np.ndarray,
        query_view: np.ndarray | None = None,
        *,
        coarse_view: CoarseView = "query",
        lists: int | None = None,
        alive: np.ndarray | None = None,
        seed: int = 0,
    ) -> DualViewIndex:
        """``items`` (N, D) f_i(I); ``query_view`` (N, D) f_q(I), None where one encoder makes both
        views the same.

        ``lists``: cells, None = :func:`default_lists`; ``alive`` (N,) bool leaves out the retired.
        Deterministic given seed, threads and device. ``ValueError`` names what does not fit, and
        the row of a vector that is not finite.
        """
        import torch

        from sidar.sid.codebooks.kmeans import kmeans

        if coarse_view not in ("item", "query", "both"):
            raise ValueError(
                f"dense.coarse_view {coarse_view!r} is not one of ['item', 'query', 'both']"
            )
        _check_shapes(items, query_view, alive)
        rows = np.arange(len(items)) if alive is None else np.flatnonzero(alive)
        if not len(rows):
            raise ValueError(
                "there is no live item, so there is nothing to index; see `sidar validate`"
            )
        cells = default_lists(len(rows)) if lists is None else min(lists, len(rows))
        if cells < 1:
            raise ValueError(
                f"dense.lists is {lists}; want at least one list, or null for the automatic number"
            )
        generator = torch.Generator().manual_seed(seed)
        chosen = rows
        if len(rows) > TRAINING * cells:
            chosen = np.sort(
                rows[torch.randperm(len(rows), generator=generator)[: TRAINING * cells].numpy()]
            )
        points = torch.from_numpy(_coarse(items, query_view, coarse_view, chosen))
        centroids = kmeans(points, cells, generator=generator).numpy()
        return cls(
            items,
            centroids,
            _assigned(items, query_view, centroids, coarse_view, rows),
            coarse_view,
        )

    def with_items(
        self,
        items: np.ndarray,
        query_view: np.ndarray | None = None,
        *,
        alive: np.ndarray | None = None,
    ) -> DualViewIndex:
        """Return the same cells over other item vectors: every live item is in the list of its
        nearest centroid.

        Arguments are those of :meth:`build`.  Where the vectors are the same the lists are too.
        """
        _check_shapes(items, query_view, alive)
        rows = np.arange(len(items)) if alive is None else np.flatnonzero(alive)
        lists = _assigned(items, query_view, self.centroids, self.coarse_view, rows)
        return DualViewIndex(items, self.centroids, lists, self.coarse_view)

    def route(self, queries: np.ndarray, nprobe: int) -> np.ndarray:
        """(Q, nprobe) int64 lists that a search of ``queries`` (Q, D) looks into, nearest first."""
        _use_torch_threads()
        _, lists = self._ivf.quantizer.search(
            self._checked(queries), min(max(nprobe, 1), len(self.centroids))
        )
        return lists

    def search(
        self, queries: np.ndarray, k: int, nprobe: int, *, allowed: np.ndarray | None = None
    ) -> Hits:
        """The k items of highest f_q(Q) · f_i(I) in the ``nprobe`` nearest lists of each query (Q,
        D).

        Ties by lower row; −1 where the lists hold fewer than k items. All lists = exact search.
        ``allowed`` (N,) bool: only these rows; few of them are compared one by one, whichever list
        they are in.
        """
        import faiss

        if allowed is not None and allowed.sum() <= self._probed_rows(nprobe):
            return self._of_rows(self._checked(queries), min(k, len(self.items)), allowed)

        queries, k = self._checked(queries), min(k, len(self.items))
        if not len(queries) or k < 1:
            shape = (len(queries), max(k, 0))
            return Hits(np.full(shape, -1, np.int32), np.zeros(shape, np.float32))
        _use_torch_threads()
        wanted = faiss.SearchParametersIVF()
        wanted.nprobe = min(max(nprobe, 1), len(self.centroids))
        if allowed is not None:
            # names: faiss keeps bare pointers to the bits and to the selector
            bits = np.packbits(allowed, bitorder="little")
            of_bits: Any = faiss.IDSelectorBitmap  # faiss's Python layer takes the array
            selector = of_bits(bits)
            wanted.sel = selector
        scores, rows = self._ivf.search(queries, k, params=wanted)
        order = np.lexsort((rows, np.where(rows >= 0, -scores, np.inf)))
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        return Hits(rows.astype(np.int32), np.where(rows >= 0, scores, 0).astype(np.float32))

    def _probed_rows(self, nprobe: int) -> float:
        """About how many items a search of one query compares."""
        return len(self.items) * min(max(nprobe, 1), len(self.centroids)) / len(self.centroids)

    def _of_rows(self, queries: np.ndarray, k: int, allowed: np.ndarray) -> Hits:
        """The k best of the ``allowed`` (N,) items, by their vectors alone."""
        rows = np.flatnonzero(allowed & (self.lists >= 0)).astype(np.int32)
        scores = queries @ np.asarray(self.items[rows], np.float32).T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        found = np.full((len(queries), max(k, 0)), -1, np.int32)
        values = np.zeros(found.shape, np.float32)
        found[:, : order.shape[1]] = rows[order]
        values[:, : order.shape[1]] = np.take_along_axis(scores, order, 1)
        return Hits(found, values)

    def save(self, folder: PathLike) -> None:
        """Centroids and list numbers into ``folder``; the item vectors stay where they are."""
        from safetensors.numpy import save_file

        arrays = {
            "centroids": np.ascontiguousarray(self.centroids, np.float32),
            "lists": self.lists,
        }
        save_file(arrays, Path(folder) / FILE)
        facts = {"format": FORMAT, "coarse_view": self.coarse_view, "items": checksum(self.items)}
        (Path(folder) / FACTS).write_text(json.dumps(facts, indent=1) + "\n")

    @classmethod
    def load(
        cls, folder: PathLike, items: np.ndarray, *, alive: np.ndarray | None = None
    ) -> DualViewIndex:
        """What :meth:`save` wrote, over the same item vectors; ``ValueError`` where they are
        others.

        ``alive`` (N,) bool leaves out items that retired since.
        """
        from safetensors.numpy import load_file

        path = Path(folder) / FACTS
        if not path.is_file():
            raise ValueError(
                f"{path} does not exist; build the index again with DualViewIndex.build"
            )
        facts = json.loads(path.read_text())
        if facts["format"] != FORMAT:
            raise ValueError(
                f"{folder} has index format {facts['format']}, Sidar reads {FORMAT}; build it again"
            )
        if facts["items"] != checksum(items):
            raise ValueError(
                f"{folder} indexes other item vectors than these {items.shape}; build it again"
            )
        arrays = load_file(Path(folder) / FILE)
        lists = (
            arrays["lists"]
            if alive is None
            else np.where(alive, arrays["lists"], -1).astype(np.int32)
        )
        return cls(items, arrays["centroids"], lists, facts["coarse_view"])

    def _checked(self, queries: np.ndarray) -> np.ndarray:
        if queries.ndim != 2 or queries.shape[1] != self.centroids.shape[1]:
            raise ValueError(
                f"query vectors {queries.shape} do not fit an index of {self.centroids.shape[1]} "
                "dimensions"
            )
        return np.ascontiguousarray(queries, np.float32)


@dataclass(frozen=True)
class Probed:
    """A dense channel through the ``nprobe`` nearest lists of ``index``; it takes query vectors."""

    index: DualViewIndex
    nprobe: int

    def search_vectors(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> Hits:
        """The k best items of each of ``queries`` (Q, D) among the ``allowed`` (N,) bool."""
        return self.index.search(queries, k, self.nprobe, allowed=allowed)


def default_lists(n: int) -> int:
    """4 √n cells, as faiss advises for n below a million, and never so many that they hold fewer
    than 8 items.
    """
    return max(1, min(round(4 * n**0.5), n // 8))


def routed(
    index: DualViewIndex, queries: np.ndarray, rows: Sequence[int] | np.ndarray, nprobe: int
) -> np.ndarray:
    """(P,) bool: for pairs of a query vector (P, D) and a relevant row, whether the row is in a
    list looked into.

    Its mean is the routing agreement (docs/methods/sci.md).
    """
    lists = index.route(queries, nprobe)  # (P, nprobe)
    return (lists == index.lists[np.asarray(rows)][:, None]).any(axis=1)


def checksum(items: np.ndarray) -> str:
    """Names item vectors (N, D): their shape and a thousand rows, evenly spaced, so that it costs
    nothing at any N.
    """
    rows = np.unique(
        np.linspace(0, max(len(items) - 1, 0), min(_CHECKED, len(items))).astype(np.int64)
    )
    some = np.ascontiguousarray(items[rows], np.float32)
    return f"{items.shape[0]}x{items.shape[1]}-{hashlib.sha256(some.tobytes()).hexdigest()[:24]}"


def _check_shapes(
    items: np.ndarray, query_view: np.ndarray | None, alive: np.ndarray | None
) -> None:
    for name, other in (("query-view vectors", query_view), ("live flags", alive)):
        if other is not None and len(other) != len(items):
            raise ValueError(
                f"{len(items)} item vectors but {len(other)} {name}; run the stage embed again"
            )
    if query_view is not None and query_view.shape != items.shape:
        raise ValueError(
            f"item vectors {items.shape} and query-view vectors {query_view.shape} differ in width"
        )


def _assigned(
    items: np.ndarray,
    query_view: np.ndarray | None,
    centroids: np.ndarray,
    view: CoarseView,
    rows: np.ndarray,
) -> np.ndarray:
    """(N,) int32 list of each of ``rows``, that of its nearest centroid; −1 elsewhere."""
    import torch

    from sidar.sid.codebooks.kmeans import nearest

    lists = np.full(len(items), -1, np.int32)
    cells = torch.from_numpy(centroids)
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        lists[some] = nearest(torch.from_numpy(_coarse(items, query_view, view, some)), cells)[
            0
        ].numpy()
    return lists


def _coarse(
    items: np.ndarray, query_view: np.ndarray | None, view: CoarseView, rows: np.ndarray
) -> np.ndarray:
    """(n, D) float32 of what the cells are made from; ``ValueError`` names a row that is not
    finite.
    """
    mine = np.array(items[rows], np.float32)
    found: np.ndarray = mine
    if view != "item" and query_view is not None:
        theirs = np.array(query_view[rows], np.float32)
        found = theirs if view == "query" else (mine + theirs) / 2
    finite = np.isfinite(found).all(axis=1) & np.isfinite(mine).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the vector of row {int(rows[finite.argmin()])} is not finite; run the stage embed "
            "again"
        )
    return found


def _use_torch_threads() -> None:
    import faiss
    import torch

    faiss.omp_set_num_threads(torch.get_num_threads())
