"""Carrying the answer of a bundle to the next one without fitting anything: for another catalogue
or numbering.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from sidar.answer.facts import FILE
from sidar.answer.memory import Memory
from sidar.baselines import Bm25
from sidar.types import Catalogue, PathLike

#: Files of a ranker of answers, which reads item facts and counts of wherever it is.
RANKER = "ranker-answer.*"


def _carry_fitted(answer: Path, out: Path) -> None:
    """Copy what was fitted and names no row: ``answer.json`` and the ranker, where there is one."""
    for path in [answer / FILE, *sorted(answer.glob(RANKER))]:
        shutil.copyfile(path, out / path.name)


def carry_to_catalogue(answer: PathLike, catalogue: Catalogue, out: PathLike) -> None:
    """Write the answer of ``answer`` for ``catalogue``, which continues its row numbering, into the
    folder ``out``.

    The memory and ``answer.json`` stay as they are; BM25 is built of today's live items with the
    stored parameters, so ``catalogue`` must have their texts.  ``ValueError`` where the memory
    counts rows of another lineage.
    """
    answer, out = Path(answer), Path(out)
    memory = Memory.load(answer)
    if memory.facts.lineage != catalogue.lineage:
        raise ValueError(
            f"{answer} counts rows of catalogue lineage {memory.facts.lineage}, this catalogue is "
            f"{catalogue.lineage}; make the bundle again with `sidar run`"
        )
    _carry_fitted(answer, out)
    memory.save(out)
    Bm25(catalogue, Bm25.read_params(answer)).save(out)


def carry_to_rows(answer: PathLike, new: np.ndarray, lineage: str, out: PathLike) -> None:
    """Write the answer of ``answer`` in another row numbering into the folder ``out``;
    ``answer.json`` stays as it is.

    ``new`` (N,) is the new row of each row, -1 where the item is gone; ``lineage`` names the new
    numbering.
    """
    answer, out = Path(answer), Path(out)
    _carry_fitted(answer, out)
    Memory.load(answer).with_rows(new, lineage).save(out)
    Bm25.load(answer).renumbered(new).save(out)
