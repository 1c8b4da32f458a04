"""Load the copies of a bundle that an engine answers with: in this process, or in workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sidar.precision import resolve_device
from sidar.serve.bundle import open_bundle
from sidar.serve.engine.process import WorkerProcess
from sidar.serve.info import Searcher
from sidar.types import PathLike

if TYPE_CHECKING:
    from sidar.serve.live import ItemStore
    from sidar.serve.live.searcher import LiveSearcher
    from sidar.serve.retriever import Retriever


def load_copies(
    bundle: PathLike,
    device: str = "cpu",
    workers: int = 0,
    *,
    verify: bool = False,
    items: ItemStore | None = None,
) -> Sequence[Searcher]:
    """Return ``workers`` worker processes over ``bundle``, or the model in this process for 0.

    The cores are shared among the workers; ``verify`` re-hashes every file first; ``items``: live
    changes of the catalogue. Raises ``ValueError`` where the bundle cannot be served.
    """
    if verify or workers:
        # one look, and an error in one place, instead of one in every process
        open_bundle(bundle, verify=verify)
    if workers == 0:
        from sidar.serve.retriever import Retriever

        retriever = Retriever.load(bundle, resolve_device(device))
        return [retriever if items is None else live_over(retriever, bundle, items)]
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ThreadPoolExecutor(workers) as pool:
        store = "" if items is None else items.name
        command = (bundle, device, threads, store)
        starts = [pool.submit(WorkerProcess, *command) for _ in range(workers)]
    failed = [error for start in starts if (error := start.exception()) is not None]
    if failed:
        for start in starts:
            if start.exception() is None:
                start.result().close()
        raise ValueError(str(failed[0]))
    return [start.result() for start in starts]


def live_over(retriever: Retriever, bundle: PathLike, items: ItemStore) -> LiveSearcher:
    """Return the retriever of ``bundle`` with the changes in ``items``; one without a tokenizer
    takes no new items.
    """
    from sidar.serve.live.encode import ItemEncoder
    from sidar.serve.live.searcher import LiveSearcher

    encoder = None
    if ItemEncoder.fits(bundle):
        embedder = None if retriever.vectors is None else retriever.vectors.embedder
        encoder = ItemEncoder.open(bundle, embedder)
    return LiveSearcher(retriever, items, encoder)
